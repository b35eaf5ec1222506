// Aligned square crops out of a frame: kernels/src/cpu/warp.rs. One thread per pixel of a crop, one layer of
// blocks per face.
#include "pixels.cuh"

template <class T>
__device__ __forceinline__ void warp(const Frame& frame, const Grid* grids, float scale, float offset, u32 side, T* crops) {
    u32 i = thread_x(), j = thread_y(), entry = blockIdx.z;
    if (i >= side || j >= side) return;
    Grid grid = grids[entry];
    u32 half_width = half_up(frame.width), half_height = half_up(frame.height);
    float sum_y = 0.0f, sum_u = 0.0f, sum_v = 0.0f;
#pragma unroll 1
    for (u32 sample_j = 0; sample_j < grid.samples; ++sample_j) {
#pragma unroll 1
        for (u32 sample_i = 0; sample_i < grid.samples; ++sample_i) {
            float row = (float)(j * grid.samples + sample_j), column = (float)(i * grid.samples + sample_i);
            float x = grid_x(grid, column, row), y = grid_y(grid, column, row);
            sum_y += sample(frame.y, frame.y_stride, 1, tap(x, frame.width), tap(y, frame.height)) -
                     frame.color.black;
            // A chroma sample shares its place with the left luma sample of its four, between the rows.
            Tap across = tap(0.5f * x, half_width), down = tap(0.5f * y - 0.25f, half_height);
            sum_u += sample(frame.u, frame.u_stride, frame.chroma_step, across, down) - 128.0f;
            sum_v += sample(frame.v, frame.v_stride, frame.chroma_step, across, down) - 128.0f;
        }
    }
    Rgb c = rgb(frame.color, sum_y * grid.share, sum_u * grid.share, sum_v * grid.share);
    usize plane = (usize)side * side;
    T* pixel = crops + 3 * plane * entry + (usize)j * side + i;
    store(pixel, c.r * scale + offset);
    store(pixel + plane, c.g * scale + offset);
    store(pixel + 2 * plane, c.b * scale + offset);
}

extern "C" __global__ void __launch_bounds__(256)
    warp_f32(Frame frame, const Grid* grids, float scale, float offset, u32 side, float* crops) {
    warp(frame, grids, scale, offset, side, crops);
}

extern "C" __global__ void __launch_bounds__(256)
    warp_f16(Frame frame, const Grid* grids, float scale, float offset, u32 side, half* crops) {
    warp(frame, grids, scale, offset, side, crops);
}
