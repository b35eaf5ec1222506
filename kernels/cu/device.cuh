// What CUDA's own headers would declare, as far as our kernels use it. With it Debian's clang compiles them to PTX
// without any package of NVIDIA's.
#pragma once
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#include <__clang_cuda_builtin_vars.h>
// __syncthreads is known to clang: to declare it again would be an error.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __SIZE_TYPE__ usize;

__device__ __forceinline__ u32 bits_of(float x) { return __builtin_bit_cast(u32, x); }
__device__ __forceinline__ void atomic_add(u64* p, u64 v) { __nvvm_atom_add_gen_ll((long long*)p, (long long)v); }

/// IEEE 754 binary16.
struct half {
    u16 bits;
};
__device__ __forceinline__ float single_of(half h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
    return f;
}
__device__ __forceinline__ half half_of(float f) {
    half h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
    return h;
}
