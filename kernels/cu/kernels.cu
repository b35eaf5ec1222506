// All kernels as one module.
#include "blend.cu"
#include "checksum.cu"
#include "cover.cu"
#include "judge.cu"
#include "resize.cu"
#include "warp.cu"
