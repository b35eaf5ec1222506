// Frames, colours and samples, shared by all kernels. The specification is the code in kernels/src/cpu: the same
// operations in the same order, in f32, compiled without contraction. The structures are mirrored by
// kernels/src/cuda/layout.rs; both sides assert the sizes.
#pragma once

/// The coefficients of kernels/src/color.rs.
struct Color {
    float black, luma, red_v, green_u, green_v, blue_u;
    float y[4], u[4], v[4];
};

/// An I420 or NV12 frame. U and V of chroma sample (j, k) lie at `u[k * u_stride + j * chroma_step]` and the same
/// in v: 1 byte apart in I420, 2 in NV12, where v is u + 1.
struct Frame {
    u8 *y, *u, *v;
    u32 width, height;
    u32 y_stride, u_stride, v_stride, chroma_step;
    Color color;
};

/// The samples of kernels/src/grid.rs. `share` is 1 / samples^2.
struct Grid {
    float a, b, x0, y0;
    u32 samples;
    float share;
};

static_assert(sizeof(Color) == 72 && sizeof(Frame) == 120 && sizeof(Grid) == 24, "mirrored in layout.rs");

__device__ __forceinline__ float single_of(float f) { return f; }
__device__ __forceinline__ void store(float* p, float f) { *p = f; }
__device__ __forceinline__ void store(half* p, float f) { *p = half_of(f); }

__device__ __forceinline__ float clamp(float x, float low, float high) { return x < low ? low : (x > high ? high : x); }
__device__ __forceinline__ u32 smaller(u32 a, u32 b) { return a < b ? a : b; }
__device__ __forceinline__ u32 half_up(u32 n) { return (n + 1) / 2; }
__device__ __forceinline__ bool is_finite(float x) { return (bits_of(x) & 0x7F800000u) != 0x7F800000u; }

/// At 1.5 * 2^23 floats lie 1 apart: adding it rounds to the nearest integer, of two equally near ones the even one.
#define INTEGERS 12582912.0f

/// A byte of a value from 0 to 255.
__device__ __forceinline__ u8 to_byte(float value) { return (u8)bits_of(value + INTEGERS); }

/// `from + weight * (to - from)`, rounded.
__device__ __forceinline__ u8 mix(u8 from, float to, float weight) {
    float f = (float)from;
    return to_byte(f + weight * (to - f));
}

struct Rgb {
    float r, g, b;
};

/// RGB from 0 to 255 of luma above black and chroma about zero.
__device__ __forceinline__ Rgb rgb(const Color& c, float y, float u, float v) {
    float l = y * c.luma;
    float red = l + c.red_v * v;
    float green = (l - c.green_u * u) - c.green_v * v;
    float blue = l + c.blue_u * u;
    return {clamp(red, 0.0f, 255.0f), clamp(green, 0.0f, 255.0f), clamp(blue, 0.0f, 255.0f)};
}

/// One of Y, U and V of RGB from 0 to 255.
__device__ __forceinline__ float weigh(const float (&k)[4], const Rgb& c) {
    return ((k[0] * c.r + k[1] * c.g) + k[2] * c.b) + k[3];
}

/// Two neighbours along one axis and the share of the second one. With a side of 1 both are the same.
struct Tap {
    u32 low, high;
    float share;
};

/// The neighbours of a position, where sample 0 lies at 0.0; positions outside move to the border.
__device__ __forceinline__ Tap tap(float position, u32 side) {
    float last = (float)(side - 1);
    float most = side > 2 ? (float)(side - 2) : 0.0f;
    position = clamp(position, 0.0f, last);
    float near = (position - 0.5f + INTEGERS) - INTEGERS;
    float below = near < most ? near : most;
    u32 low = bits_of(below + INTEGERS) - bits_of(INTEGERS);
    return {low, smaller(low + 1, side - 1), position - below};
}

__device__ __forceinline__ float bilinear(float fx, float fy, float p00, float p01, float p10, float p11) {
    float top = p00 + fx * (p01 - p00);
    float bottom = p10 + fx * (p11 - p10);
    return top + fy * (bottom - top);
}

/// A bilinear sample of bytes `step` apart in rows of `stride`.
__device__ __forceinline__ float sample(const u8* plane, u32 stride, u32 step, const Tap& x, const Tap& y) {
    const u8* top = plane + (usize)y.low * stride;
    const u8* bottom = plane + (usize)y.high * stride;
    u32 left = x.low * step, right = x.high * step;
    return bilinear(x.share, y.share, (float)top[left], (float)top[right], (float)bottom[left],
                    (float)bottom[right]);
}

/// The position of sample `(i, j)` of a grid.
__device__ __forceinline__ float grid_x(const Grid& g, float i, float j) { return (g.x0 - g.b * j) + g.a * i; }
__device__ __forceinline__ float grid_y(const Grid& g, float i, float j) { return (g.y0 + g.a * j) + g.b * i; }

__device__ __forceinline__ u32 thread_x() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u32 thread_y() { return blockIdx.y * blockDim.y + threadIdx.y; }
