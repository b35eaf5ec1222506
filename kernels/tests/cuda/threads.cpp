// Plain, or under AddressSanitizer: a thread of a kernel with barriers is a fiber with a stack of its own, and the
// order in which fibers go on after a barrier is shuffled, the same for the same launch.
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <vector>

#include "threads.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

__thread dim3 threadIdx, blockIdx, blockDim;

namespace {
constexpr usize STACK = 128 * 1024;

struct Fiber {
    ucontext_t context;
    char* stack = static_cast<char*>(std::malloc(STACK));
    dim3 thread;
    bool done;
    void* fake_stack;
};

struct Scheduler {
    ucontext_t context;
    std::vector<Fiber> fibers;
    Fiber* current;
    void (*kernel)(void*);
    void* argument;
    const void* bottom;
    usize size;
    void* fake_stack;
    ~Scheduler() {
        for (Fiber& fiber : fibers) std::free(fiber.stack);
    }
};
thread_local Scheduler scheduler;

// AddressSanitizer has to know on which stack the program is. A fiber that ends gives its fake stack back.
void announce(bool ends, void** fake_stack, const void* bottom, usize size) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? nullptr : fake_stack, bottom, size);
#else
    (void)ends, (void)fake_stack, (void)bottom, (void)size;
#endif
}
void arrived(void* fake_stack, const void** bottom, usize* size) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
#else
    (void)fake_stack, (void)bottom, (void)size;
#endif
}

void to_scheduler(bool ends) {
    Fiber& fiber = *scheduler.current;
    announce(ends, &fiber.fake_stack, scheduler.bottom, scheduler.size);
    swapcontext(&fiber.context, &scheduler.context);
    arrived(fiber.fake_stack, &scheduler.bottom, &scheduler.size);
}

void begin() {
    arrived(nullptr, &scheduler.bottom, &scheduler.size);
    scheduler.kernel(scheduler.argument);
    scheduler.current->done = true;
    to_scheduler(true);
}

/// Makes thread `i` of a block ready to begin.
void prepare(Fiber& fiber, usize i, dim3 block) {
    fiber.thread = {(u32)(i % block.x), (u32)(i / block.x % block.y), (u32)(i / block.x / block.y)};
    fiber.done = false;
    fiber.fake_stack = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, begin, 0);
}

void run_in_turn(dim3 block) {
    usize count = (usize)block.x * block.y * block.z;
    if (scheduler.fibers.size() < count) scheduler.fibers = std::vector<Fiber>(count);
    std::vector<usize> order(count);
    for (usize i = 0; i < count; ++i) {
        prepare(scheduler.fibers[i], i, block);
        order[i] = i;
    }
    std::mt19937 random(7);
    for (usize left = count; left > 0;) {
        std::shuffle(order.begin(), order.end(), random);
        for (usize i : order) {
            Fiber& fiber = scheduler.fibers[i];
            if (fiber.done) continue;
            scheduler.current = &fiber;
            threadIdx = fiber.thread;
            announce(false, &scheduler.fake_stack, fiber.stack, STACK);
            swapcontext(&scheduler.context, &fiber.context);
            arrived(scheduler.fake_stack, nullptr, nullptr);
            left -= fiber.done;
        }
    }
}
}  // namespace

void host_barrier() { to_scheduler(false); }
void host_atomic_add(u64* p, u64 v) { *p += v; }

void host_launch(void (*kernel)(void*), void* argument, dim3 grid, dim3 block, bool barriers) {
    blockDim = block;
    scheduler.kernel = kernel;
    scheduler.argument = argument;
    for (u32 z = 0; z < grid.z; ++z)
        for (u32 y = 0; y < grid.y; ++y)
            for (u32 x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (barriers) {
                    run_in_turn(block);
                    continue;
                }
                for (u32 k = 0; k < block.z; ++k)
                    for (u32 j = 0; j < block.y; ++j)
                        for (u32 i = 0; i < block.x; ++i) {
                            threadIdx = {i, j, k};
                            kernel(argument);
                        }
            }
}
