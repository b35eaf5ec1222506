// A frame scaled to a network's input: kernels/src/cpu/resize.rs. One thread per pixel of the result.
#include "pixels.cuh"

/// The source samples of one result along one axis, as kernels/src/axis.rs works them out.
struct Weights {
    u32 first, last;
    float head, tail, weight;
};

/// What one plane's taps are multiplied with, and where they begin: `width` of x, then `height` of y.
struct Scaling {
    const Weights* taps;
    float scale;
};

static_assert(sizeof(Weights) == 20 && sizeof(Scaling) == 16, "mirrored in layout.rs");

/// `(head * first + rows between) + tail * last` of one column of bytes.
__device__ __forceinline__ float sum_rows(const u8* column, u32 stride, const Weights& down) {
    float sum = down.head * (float)column[(usize)down.first * stride];
    u32 next = down.first + 1;
#pragma unroll 1
    while (next < down.last) {
        // In integers, in groups of as many rows as the specification takes.
        u32 end = smaller(down.last, next + 257), whole = 0;
#pragma unroll 2
        for (u32 row = next; row < end; ++row) whole += column[(usize)row * stride];
        sum += (float)whole;
        next = end;
    }
    sum += down.tail * (float)column[(usize)down.last * stride];
    return sum;
}

/// The mean of one plane's samples, relative to `offset`.
__device__ __forceinline__ float mean(const u8* plane, u32 stride, u32 step, const Weights& across, const Weights& down,
                             float scale, float offset) {
    // A middle column weighs 1, and a tail that is also the head weighs nothing.
    float sum = 0.0f;
#pragma unroll 1
    for (u32 column = across.first; column <= across.last; ++column) {
        float weight = column == across.first ? across.head : column == across.last ? across.tail : 1.0f;
        sum += weight * sum_rows(plane + column * step, stride, down);
    }
    return sum * scale - offset * (across.weight * (down.weight * scale));
}

template <class T>
__device__ __forceinline__ void resize(const Frame& frame, const Scaling& luma, const Scaling& chroma, float scale,
                              float offset, u32 width, u32 height, T* image) {
    u32 i = thread_x(), j = thread_y();
    if (i >= width || j >= height) return;
    float y = mean(frame.y, frame.y_stride, 1, luma.taps[i], luma.taps[width + j], luma.scale, frame.color.black);
    Weights across = chroma.taps[i], down = chroma.taps[width + j];
    float u = mean(frame.u, frame.u_stride, frame.chroma_step, across, down, chroma.scale, 128.0f);
    float v = mean(frame.v, frame.v_stride, frame.chroma_step, across, down, chroma.scale, 128.0f);
    Rgb c = rgb(frame.color, y, u, v);
    usize plane = (usize)width * height;
    T* pixel = image + (usize)j * width + i;
    store(pixel, c.r * scale + offset);
    store(pixel + plane, c.g * scale + offset);
    store(pixel + 2 * plane, c.b * scale + offset);
}

// Four blocks at a time leave 64 registers to a thread: for five, assemblers spill.
extern "C" __global__ void __launch_bounds__(256, 4)
    resize_f32(Frame frame, Scaling luma, Scaling chroma, float scale, float offset, u32 width, u32 height,
               float* image) {
    resize(frame, luma, chroma, scale, offset, width, height, image);
}

extern "C" __global__ void __launch_bounds__(256, 4)
    resize_f16(Frame frame, Scaling luma, Scaling chroma, float scale, float offset, u32 width, u32 height,
               half* image) {
    resize(frame, luma, chroma, scale, offset, width, height, image);
}
