// Masks that hide the person: kernels/src/cpu/judge.rs. One block per face; sums of integers, so that their order says
// nothing.
#include "pixels.cuh"

/// The pixels of a crop's row that lie in the hull: kernels/src/inside.rs.
struct Row {
    u32 start, end;
};

static_assert(sizeof(Row) == 8, "mirrored in layout.rs");

/// The threads of a block.
#define JUDGES 256

template <class T>
__device__ __forceinline__ void judge(const Row* rows, u32 side, float floor, const T* faces, T* masks, float* shares) {
    __shared__ u32 inside[JUDGES], own[JUDGES], odd[JUDGES];
    u32 face = blockIdx.x, thread = threadIdx.x, plane = side * side;
    const T* colors = faces + (usize)3 * plane * face;
    T* mask = masks + (usize)plane * face;
    rows += (usize)side * face;
    u32 all = 0, sound = 0, others = 0;
    for (u32 i = thread; i < 3 * plane; i += JUDGES) others |= !is_finite(single_of(colors[i]));
    for (u32 i = thread; i < plane; i += JUDGES) {
        float value = single_of(mask[i]);
        others |= !is_finite(value);
        u32 column = i % side;
        Row row = rows[i / side];
        if (column < row.start || column >= row.end) continue;
        ++all;
        // What is no number stays: `blend` makes it grey.
        if (value < floor) {
            store(mask + i, floor);
        } else {
            ++sound;
        }
    }
    inside[thread] = all;
    own[thread] = sound;
    odd[thread] = others;
    for (u32 half = JUDGES / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) {
            inside[thread] += inside[thread + half];
            own[thread] += own[thread + half];
            odd[thread] |= odd[thread + half];
        }
    }
    if (thread != 0) return;
    float share = inside[0] == 0 ? 0.0f : (float)own[0] / (float)inside[0];
    shares[face] = odd[0] ? __builtin_nanf("") : share;
}

extern "C" __global__ void __launch_bounds__(JUDGES)
    judge_f32(const Row* rows, u32 side, float floor, const float* faces, float* masks, float* shares) {
    judge(rows, side, floor, faces, masks, shares);
}

extern "C" __global__ void __launch_bounds__(JUDGES)
    judge_f16(const Row* rows, u32 side, float floor, const half* faces, half* masks, float* shares) {
    judge(rows, side, floor, faces, masks, shares);
}
