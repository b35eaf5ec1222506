// A number that says which picture a frame shows: kernels/src/cpu/checksum.rs. One thread per chroma sample and its
// four pixels; sums of integers, so that their order says nothing.
#include "pixels.cuh"

/// What a sample counts for: its value times a hash of its place.
__device__ __forceinline__ u64 count_sample(u32 plane, u32 column, u32 row, u8 value) {
    u32 hash = (row << 16 | column) ^ plane << 30;
    hash = (hash ^ hash >> 16) * 0x7FEB352Du;
    hash = (hash ^ hash >> 15) * 0x846CA68Bu;
    // Never 0: no place may be without weight.
    hash = (hash ^ hash >> 16) | 1;
    return (u64)hash * (value + 1u);
}

extern "C" __global__ void __launch_bounds__(256) checksum(Frame frame, u64* total) {
    __shared__ u64 sums[256];
    u32 column = thread_x(), row = thread_y(), thread = threadIdx.y * blockDim.x + threadIdx.x;
    u64 sum = 0;
    if (column < half_up(frame.width) && row < half_up(frame.height)) {
        for (u32 corner = 0; corner < 4; ++corner) {
            u32 i = 2 * column + corner % 2, j = 2 * row + corner / 2;
            if (i < frame.width && j < frame.height) {
                sum += count_sample(0, i, j, frame.y[(usize)j * frame.y_stride + i]);
            }
        }
        u32 at = column * frame.chroma_step;
        sum += count_sample(1, column, row, frame.u[(usize)row * frame.u_stride + at]);
        sum += count_sample(2, column, row, frame.v[(usize)row * frame.v_stride + at]);
    }
    sums[thread] = sum;
    for (u32 half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) sums[thread] += sums[thread + half];
    }
    if (thread == 0) atomic_add(total, sums[0]);
}
