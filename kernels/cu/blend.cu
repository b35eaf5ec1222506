// Generated faces back into their frame, in place: kernels/src/cpu/blend.rs. One thread per chroma sample and its
// four pixels, one layer of blocks per face.
//
// Faces may overlap, and the later one lies on top: the thread of the first face whose box holds a sample works on
// it for all later faces too, in order. So no two threads write the same byte.
#include "pixels.cuh"

/// One edge of kernels/src/edges.rs.
struct Edge {
    float nx, ny, c;
};

struct Placed {
    Grid luma, chroma;
    /// The hull's pixels in the frame; left and top are even.
    u32 left, top, width, height;
    u32 edges;
    Edge edge[68];
};

static_assert(sizeof(Placed) == 884, "mirrored in layout.rs");

/// Whether chroma sample `(x, y)` lies in the face's box.
__device__ __forceinline__ bool holds(const Placed& face, u32 x, u32 y) {
    return x - face.left / 2 < half_up(face.width) && y - face.top / 2 < half_up(face.height);
}

/// The soft edge at a position relative to the box: 0 on and outside of the hull, 1 from one feather inside on.
__device__ __forceinline__ float soft_edge(const Placed& face, float x, float y) {
    float weight = 1.0f;
    for (u32 k = 0; k < face.edges; ++k) {
        const Edge& edge = face.edge[k];
        float distance = edge.nx * x + (edge.ny * y + edge.c);
        distance = distance > 0.0f ? distance : 0.0f;
        weight = distance < weight ? distance : weight;
    }
    return weight;
}

/// One pixel of a crop: its colour from 0 to 255 and its mask. What is not finite is opaque grey.
struct Texel {
    Rgb color;
    float mask;
};

template <class T>
__device__ __forceinline__ Texel texel(const T* face, const T* mask, usize plane, usize index) {
    float r = single_of(face[index]), g = single_of(face[plane + index]);
    float b = single_of(face[2 * plane + index]), m = single_of(mask[index]);
    if (!(is_finite(r) && is_finite(g) && is_finite(b) && is_finite(m))) {
        return {{127.5f, 127.5f, 127.5f}, 1.0f};
    }
    return {{(clamp(r, -1.0f, 1.0f) + 1.0f) * 127.5f, (clamp(g, -1.0f, 1.0f) + 1.0f) * 127.5f,
             (clamp(b, -1.0f, 1.0f) + 1.0f) * 127.5f},
            clamp(m, 0.0f, 1.0f)};
}

/// The means of the cell `(i, j)` of a grid over a face: `first` and `second` of Y, U and V, and the mask.
template <class T>
__device__ __forceinline__ void means(const T* face, const T* mask, u32 side, const Grid& grid, u32 i, u32 j,
                             const float (&first)[4], const float (&second)[4], float* out_first,
                             float* out_second, float* out_mask) {
    usize plane = (usize)side * side;
    float sum_first = 0.0f, sum_second = 0.0f, sum_mask = 0.0f;
#pragma unroll 1
    for (u32 sample_j = 0; sample_j < grid.samples; ++sample_j) {
#pragma unroll 1
        for (u32 sample_i = 0; sample_i < grid.samples; ++sample_i) {
            float row = (float)(j * grid.samples + sample_j), column = (float)(i * grid.samples + sample_i);
            Tap x = tap(grid_x(grid, column, row), side), y = tap(grid_y(grid, column, row), side);
            Texel p00 = texel(face, mask, plane, (usize)y.low * side + x.low);
            Texel p01 = texel(face, mask, plane, (usize)y.low * side + x.high);
            Texel p10 = texel(face, mask, plane, (usize)y.high * side + x.low);
            Texel p11 = texel(face, mask, plane, (usize)y.high * side + x.high);
            sum_first += bilinear(x.share, y.share, weigh(first, p00.color), weigh(first, p01.color),
                                  weigh(first, p10.color), weigh(first, p11.color));
            sum_second += bilinear(x.share, y.share, weigh(second, p00.color), weigh(second, p01.color),
                                   weigh(second, p10.color), weigh(second, p11.color));
            sum_mask += bilinear(x.share, y.share, p00.mask, p01.mask, p10.mask, p11.mask);
        }
    }
    *out_first = sum_first * grid.share;
    *out_second = sum_second * grid.share;
    *out_mask = sum_mask * grid.share;
}

template <class T>
__device__ __forceinline__ void blend(const Frame& frame, const Placed* placed, u32 count, const T* faces, const T* masks,
                             u32 side) {
    u32 own = blockIdx.z;
    u32 x = placed[own].left / 2 + thread_x(), y = placed[own].top / 2 + thread_y();
    if (!holds(placed[own], x, y)) return;
    for (u32 earlier = 0; earlier < own; ++earlier) {
        if (holds(placed[earlier], x, y)) return;
    }
    usize plane = (usize)side * side;
    for (u32 k = own; k < count; ++k) {
        const Placed& face = placed[k];
        if (!holds(face, x, y)) continue;
        const T *colors = faces + 3 * plane * k, *mask = masks + plane * k;
#pragma unroll 1
        for (u32 corner = 0; corner < 4; ++corner) {
            u32 i = 2 * x + corner % 2 - face.left, j = 2 * y + corner / 2 - face.top;
            if (i >= face.width || j >= face.height) continue;
            float weight = soft_edge(face, (float)i + 0.5f, (float)j + 0.5f);
            if (weight == 0.0f) continue;
            float to, unused, opacity;
            means(colors, mask, side, face.luma, i, j, frame.color.y, frame.color.y, &to, &unused, &opacity);
            u8* pixel = frame.y + (usize)(face.top + j) * frame.y_stride + (face.left + i);
            *pixel = mix(*pixel, to, opacity * weight);
        }
        // Chroma samples lie on every other pixel, between two rows.
        u32 i = x - face.left / 2, j = y - face.top / 2;
        float weight = soft_edge(face, 2.0f * (float)i + 0.5f, 2.0f * (float)j + 1.0f);
        if (weight == 0.0f) continue;
        float to_u, to_v, opacity;
        means(colors, mask, side, face.chroma, i, j, frame.color.u, frame.color.v, &to_u, &to_v, &opacity);
        u8* u = frame.u + (usize)y * frame.u_stride + x * frame.chroma_step;
        u8* v = frame.v + (usize)y * frame.v_stride + x * frame.chroma_step;
        *u = mix(*u, to_u, opacity * weight);
        *v = mix(*v, to_v, opacity * weight);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    blend_f32(Frame frame, const Placed* placed, u32 count, const float* faces, const float* masks, u32 side) {
    blend(frame, placed, count, faces, masks, side);
}

extern "C" __global__ void __launch_bounds__(256)
    blend_f16(Frame frame, const Placed* placed, u32 count, const half* faces, const half* masks, u32 side) {
    blend(frame, placed, count, faces, masks, side);
}
