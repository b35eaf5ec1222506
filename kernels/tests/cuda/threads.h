// Runs a launch on the processor: blocks one after another, the threads of a block as loops or as fibers.
#pragma once
#include "host.cuh"

/// Calls `kernel(argument)` once for each thread. `barriers`: the kernel calls __syncthreads, so its threads have to
/// run in turn.
void host_launch(void (*kernel)(void*), void* argument, dim3 grid, dim3 block, bool barriers);
