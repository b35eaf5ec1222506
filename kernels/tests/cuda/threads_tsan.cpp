// Under ThreadSanitizer: every thread of a kernel is a fiber that ThreadSanitizer takes for a thread of its own. It is
// told of no order between them but what CUDA promises: a launch's beginning and end, barriers, atomic operations. This
// file itself is compiled without instrumentation. One launch at a time.
#include <ucontext.h>

#include <cstdlib>
#include <mutex>
#include <vector>

// The declarations are those of the instrumented kernels.
#define __SANITIZE_THREAD__ 1
#include "threads.h"
#undef threadIdx
#undef blockIdx
#undef blockDim

extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}

namespace {
constexpr usize STACK = 64 * 1024;
/// A switch that orders nothing.
constexpr unsigned NO_SYNC = 1;

struct Fiber {
    ucontext_t context;
    char* stack = static_cast<char*>(std::malloc(STACK));
    dim3 thread;
    bool done;
    void* sanitizer = __tsan_create_fiber(0);
};

ucontext_t scheduler;
void* scheduler_fiber;
std::vector<Fiber> fibers;
Fiber* current;
void (*kernel_of_launch)(void*);
void* argument_of_launch;
dim3 block_now, block_size;
char barrier, atomic, launched, ended;
std::mutex one_at_a_time;

void to_scheduler() {
    __tsan_switch_to_fiber(scheduler_fiber, NO_SYNC);
    swapcontext(&current->context, &scheduler);
}

void begin() {
    __tsan_acquire(&launched);
    kernel_of_launch(argument_of_launch);
    current->done = true;
    __tsan_release(&ended);
    to_scheduler();
}

/// Makes thread `i` of a block ready to begin.
void prepare(Fiber& fiber, usize i, dim3 block) {
    fiber.thread = {(u32)(i % block.x), (u32)(i / block.x % block.y), (u32)(i / block.x / block.y)};
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, begin, 0);
}
}  // namespace

dim3 host_thread() { return current->thread; }
dim3 host_block() { return block_now; }
dim3 host_block_size() { return block_size; }

void host_barrier() {
    __tsan_release(&barrier);
    to_scheduler();
    __tsan_acquire(&barrier);
}

void host_atomic_add(u64* p, u64 v) {
    __tsan_acquire(&atomic);
    *p += v;
    __tsan_release(&atomic);
}

void host_launch(void (*kernel)(void*), void* argument, dim3 grid, dim3 block, bool barriers) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    kernel_of_launch = kernel;
    argument_of_launch = argument;
    block_size = block;
    scheduler_fiber = __tsan_get_current_fiber();
    usize count = (usize)block.x * block.y * block.z;
    if (fibers.size() < count) fibers = std::vector<Fiber>(count);
    __tsan_release(&launched);
    for (u32 z = 0; z < grid.z; ++z)
        for (u32 y = 0; y < grid.y; ++y)
            for (u32 x = 0; x < grid.x; ++x) {
                block_now = {x, y, z};
                for (usize i = 0; i < count; ++i) prepare(fibers[i], i, block);
                for (usize left = count; left > 0;) {
                    for (usize i = 0; i < count; ++i) {
                        Fiber& fiber = fibers[i];
                        if (fiber.done) continue;
                        current = &fiber;
                        __tsan_switch_to_fiber(fiber.sanitizer, NO_SYNC);
                        swapcontext(&scheduler, &fiber.context);
                        left -= fiber.done;
                    }
                }
                // Blocks run side by side. Only because all of them share one piece of `__shared__` memory here do
                // those that use it have to follow each other.
                if (barriers) {
                    __tsan_acquire(&ended);
                    __tsan_release(&launched);
                }
            }
    __tsan_acquire(&ended);
}
