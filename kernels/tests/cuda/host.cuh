// What kernels/cu/device.cuh declares, for the processor: so the same kernels run where there is no GPU.
#pragma once
#include <cstring>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ usize;

struct dim3 {
    u32 x, y, z;
};

#ifdef __SANITIZE_THREAD__
// The scheduler is not instrumented, so where a thread stands must not be memory that the kernels touch.
dim3 host_thread();
dim3 host_block();
dim3 host_block_size();
#define threadIdx host_thread()
#define blockIdx host_block()
#define blockDim host_block_size()
#define __shared__ static
#else
extern __thread dim3 threadIdx, blockIdx, blockDim;
#define __shared__ static thread_local
#endif

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
void host_barrier();
#define __syncthreads host_barrier
void host_atomic_add(u64* p, u64 v);

static inline u32 bits_of(float x) {
    u32 bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline void atomic_add(u64* p, u64 v) { host_atomic_add(p, v); }

/// IEEE 754 binary16.
struct half {
    u16 bits;
};
#ifdef __aarch64__
typedef __fp16 Binary16;
#else
typedef _Float16 Binary16;
#endif
static inline float single_of(half h) {
    Binary16 value;
    std::memcpy(&value, &h, sizeof value);
    return (float)value;
}
static inline half half_of(float f) {
    Binary16 value = (Binary16)f;
    half h;
    std::memcpy(&h, &value, sizeof h);
    return h;
}
