// Regions made unrecognisable: kernels/src/cpu/cover.rs. First the colours around every patch, one block each; then
// the patches, one thread per chroma sample and its four pixels.
#include "pixels.cuh"

/// The part of a row that is covered, relative to the patch.
struct Span {
    u16 start, end;
};

struct Patch {
    /// Pixels that may be covered; all four are even, so that the last column or row may lie beyond the frame.
    u32 left, top, width, height;
    /// Where its spans begin: one for each row of pixels, then one for each row of chroma samples.
    u32 pixel_spans, chroma_spans;
    /// How many of each.
    u32 pixel_rows, chroma_rows;
    /// How much of the difference between its sides the fill shows, 0 to 1.
    float contrast;
    /// Y, U, V left, right, above and below: `cover_sides` fills them in.
    float sides[4][3];
};

static_assert(sizeof(Span) == 4 && sizeof(Patch) == 84, "mirrored in layout.rs");

struct Interval {
    u32 start, end;
};
__device__ __forceinline__ bool contains(const Interval& interval, u32 x) { return interval.start <= x && x < interval.end; }
__device__ __forceinline__ Interval before(u32 start, u32 band) { return {start > band ? start - band : 0, start}; }
__device__ __forceinline__ Interval after(u32 end, u32 band, u32 limit) {
    return {smaller(end, limit), smaller(end + band, limit)};
}
/// Sample `k` of `count` evenly spaced ones.
__device__ __forceinline__ u32 nth(const Interval& interval, u32 k, u32 count) {
    return interval.start + (2 * k + 1) * (interval.end - interval.start) / (2 * count);
}
__device__ __forceinline__ bool covers(const Patch& patch, u32 x, u32 y) {
    return x - patch.left < patch.width && y - patch.top < patch.height;
}

/// Samples on each side of a patch: 16 along it times 4 across.
#define LATTICE 64

/// Y, U, V and the number of samples as 16 bits each: sums of 64 bytes do not overflow into the next one.
__device__ __forceinline__ u64 lattice_sample(const Frame& frame, const Patch* patches, u32 count, const Patch& patch,
                                     u32 side, u32 number) {
    Interval columns = {patch.left, patch.left + patch.width}, rows = {patch.top, patch.top + patch.height};
    u32 band = (patch.width > patch.height ? patch.width : patch.height) / 8;
    band = band > 2 ? band : 2;
    bool beside = side < 2;
    if (side == 0) columns = before(columns.start, band);
    if (side == 1) columns = after(columns.end, band, frame.width);
    if (side == 2) rows = before(rows.start, band);
    if (side == 3) rows = after(rows.end, band, frame.height);
    u32 x = nth(columns, beside ? number % 4 : number % 16, beside ? 4 : 16);
    u32 y = nth(rows, beside ? number / 4 : number / 16, beside ? 16 : 4);
    if (!contains(columns, x) || !contains(rows, y) || x >= frame.width || y >= frame.height) return 0;
    for (u32 k = 0; k < count; ++k) {
        if (covers(patches[k], x, y)) return 0;
    }
    u64 luma = frame.y[(usize)y * frame.y_stride + x];
    u64 u = frame.u[(usize)(y / 2) * frame.u_stride + x / 2 * frame.chroma_step];
    u64 v = frame.v[(usize)(y / 2) * frame.v_stride + x / 2 * frame.chroma_step];
    return luma | u << 16 | v << 32 | 1ULL << 48;
}

__device__ __forceinline__ u32 part(u64 sums, u32 channel) { return (u32)(sums >> (16 * channel)) & 0xFFFF; }

extern "C" __global__ void __launch_bounds__(256)
    cover_sides(Frame frame, Patch* patches, u32 count, float grey_y, float grey_u, float grey_v) {
    __shared__ u64 sums[4 * LATTICE];
    u32 thread = threadIdx.x, number = thread % LATTICE;
    Patch& patch = patches[blockIdx.x];
    sums[thread] = lattice_sample(frame, patches, count, patch, thread / LATTICE, number);
    for (u32 half = LATTICE / 2; half > 0; half /= 2) {
        __syncthreads();
        if (number < half) sums[thread] += sums[thread + half];
    }
    __syncthreads();
    if (thread >= 3) return;
    // Sums of bytes are exact in f32, in whatever order.
    u32 channel = thread;
    u32 sum = 0, total = 0;
    for (u32 k = 0; k < 4; ++k) {
        sum += part(sums[k * LATTICE], channel);
        total += part(sums[k * LATTICE], 3);
    }
    float grey = channel == 0 ? grey_y : channel == 1 ? grey_u : grey_v;
    float colors[4], middle = 0.0f;
    for (u32 k = 0; k < 4; ++k) {
        u32 here = part(sums[k * LATTICE], 3);
        colors[k] = total == 0  ? grey
                    : here == 0 ? (float)sum / (float)total
                                : (float)part(sums[k * LATTICE], channel) / (float)here;
        middle += 0.25f * colors[k];
    }
    for (u32 k = 0; k < 4; ++k) patch.sides[k][channel] = middle + patch.contrast * (colors[k] - middle);
}

/// The colour at a position: half of it changes from left to right, half from top to bottom.
__device__ __forceinline__ float shade(const Patch& patch, u32 channel, float x, float y) {
    float across = clamp((x - (float)patch.left) / (float)patch.width, 0.0f, 1.0f);
    float down = clamp((y - (float)patch.top) / (float)patch.height, 0.0f, 1.0f);
    float left = patch.sides[0][channel], right = patch.sides[1][channel];
    float above = patch.sides[2][channel], below = patch.sides[3][channel];
    return 0.5f * ((left + across * (right - left)) + (above + down * (below - above)));
}

__device__ __forceinline__ bool in_span(const Span* spans, u32 rows, u32 row, u32 column) {
    return row < rows && spans[row].start <= column && column < spans[row].end;
}

/// A later patch lies on top. The thread of the first patch whose box holds a sample decides for all of them.
extern "C" __global__ void __launch_bounds__(256)
    cover_paint(Frame frame, const Patch* patches, u32 count, const Span* spans) {
    u32 own = blockIdx.z;
    u32 x = patches[own].left / 2 + thread_x(), y = patches[own].top / 2 + thread_y();
    if (!covers(patches[own], 2 * x, 2 * y)) return;
    for (u32 earlier = 0; earlier < own; ++earlier) {
        if (covers(patches[earlier], 2 * x, 2 * y)) return;
    }
    for (u32 corner = 0; corner < 4; ++corner) {
        u32 column = 2 * x + corner % 2, row = 2 * y + corner / 2;
        for (u32 k = count; k-- > own;) {
            const Patch& patch = patches[k];
            if (in_span(spans + patch.pixel_spans, patch.pixel_rows, row - patch.top, column - patch.left)) {
                frame.y[(usize)row * frame.y_stride + column] =
                    to_byte(shade(patch, 0, (float)column + 0.5f, (float)row + 0.5f));
                break;
            }
        }
    }
    for (u32 k = count; k-- > own;) {
        const Patch& patch = patches[k];
        if (in_span(spans + patch.chroma_spans, patch.chroma_rows, y - patch.top / 2, x - patch.left / 2)) {
            float at_x = 2.0f * (float)x + 0.5f, at_y = (float)(2 * y) + 1.0f;
            frame.u[(usize)y * frame.u_stride + x * frame.chroma_step] = to_byte(shade(patch, 1, at_x, at_y));
            frame.v[(usize)y * frame.v_stride + x * frame.chroma_step] = to_byte(shade(patch, 2, at_x, at_y));
            break;
        }
    }
}

/// Gives the whole frame one colour: the last resort.
extern "C" __global__ void __launch_bounds__(256) cover_frame(Frame frame, u32 y, u32 u, u32 v) {
    u32 column = thread_x(), row = thread_y();
    if (column >= half_up(frame.width) || row >= half_up(frame.height)) return;
    for (u32 corner = 0; corner < 4; ++corner) {
        u32 i = 2 * column + corner % 2, j = 2 * row + corner / 2;
        if (i < frame.width && j < frame.height) frame.y[(usize)j * frame.y_stride + i] = (u8)y;
    }
    frame.u[(usize)row * frame.u_stride + column * frame.chroma_step] = (u8)u;
    frame.v[(usize)row * frame.v_stride + column * frame.chroma_step] = (u8)v;
}
