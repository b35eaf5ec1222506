// A libcuda.so.1 whose device is the processor and whose kernels are kernels/cu compiled for it. The program loads it
// like NVIDIA's and makes the same calls: load a module, set arguments, launch, copy, wait.
//
// It is strict where the real one is silent. Nothing happens before somebody waits, so that a result that is looked at
// too early is wrong and memory that is used again too early is overwritten; copies have to stay inside of one
// allocation; a call in a thread without a context fails; PTX newer than the driver is refused.
//
// Environment: FAKE_CUDA_VERSION (11040), FAKE_CUDA_DEVICES (1), FAKE_CUDA_CAPABILITY (87), FAKE_CUDA_FAULT (a launch
// of the kernel of this name reports an illegal address at the next wait, and so does everything after it),
// FAKE_CUDA_WAITS (a file to which every wait of the processor adds the name of its thread).
#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "surface.h"
#include "threads.h"
// After it, so that no header of the system sees CUDA's words.
#include "kernels.cu"

typedef u32 CUresult;
typedef u64 CUdeviceptr;

namespace {
enum : CUresult {
    OK = 0,
    INVALID_VALUE = 1,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    UNSUPPORTED_PTX_VERSION = 222,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
};

using Work = std::function<void()>;
using Capture = std::function<Work(void**)>;

/// The arguments of a launch are copied when it is asked for, by the types of the kernel itself.
template <class... A, usize... I>
Work capture(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    std::tuple<A...> values{*static_cast<A*>(arguments[I])...};
    return [kernel, values] { std::apply(kernel, values); };
}

struct Kernel {
    const char* name;
    Capture capture;
    bool barriers;
};

template <class... A>
Kernel kernel(const char* name, void (*function)(A...), bool barriers = false) {
    return {name, [function](void** arguments) { return capture(function, arguments, std::index_sequence_for<A...>{}); },
            barriers};
}

Kernel kernels[] = {
    kernel("resize_f32", resize_f32),   kernel("resize_f16", resize_f16),   kernel("warp_f32", warp_f32),
    kernel("warp_f16", warp_f16),       kernel("blend_f32", blend_f32),     kernel("blend_f16", blend_f16),
    kernel("cover_paint", cover_paint), kernel("cover_frame", cover_frame), kernel("cover_sides", cover_sides, true),
    kernel("checksum", checksum, true), kernel("judge_f32", judge_f32, true), kernel("judge_f16", judge_f16, true),
};

struct Stream {
    std::deque<Work> work;
};
/// A mark in a stream: passed once the stream has come to it.
struct Event {
    Stream* stream;
    std::shared_ptr<bool> passed;
};

std::recursive_mutex lock;
std::map<CUdeviceptr, usize> memory;
std::vector<Stream*> streams;
thread_local void* context;
char the_context, the_module;
bool broken;

int setting(const char* name, int otherwise) {
    const char* value = std::getenv(name);
    return value ? std::atoi(value) : otherwise;
}

/// Whether the bytes lie in one allocation.
bool is_ours(CUdeviceptr address, usize bytes) {
    auto next = memory.upper_bound(address);
    if (next == memory.begin()) return false;
    --next;
    return address + bytes <= next->first + next->second;
}

CUresult take(CUdeviceptr* address, usize bytes) {
    if (bytes == 0) return INVALID_VALUE;
    *address = reinterpret_cast<CUdeviceptr>(std::malloc(bytes));
    memory[*address] = bytes;
    return OK;
}

/// Does what a stream was asked for, in order: all of it, or no more than it takes to come to a mark.
void run(Stream* stream, const bool* mark = nullptr) {
    while (!stream->work.empty() && !(mark && *mark)) {
        Work item = std::move(stream->work.front());
        stream->work.pop_front();
        item();
    }
}

void note_wait() {
    const char* path = std::getenv("FAKE_CUDA_WAITS");
    FILE* file = path ? std::fopen(path, "a") : nullptr;
    if (!file) return;
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    std::fprintf(file, "%s\n", name);
    std::fclose(file);
}

CUresult wait(Stream* stream) {
    note_wait();
    run(stream);
    return broken ? ILLEGAL_ADDRESS : OK;
}

CUresult give_back(CUdeviceptr address) {
    // As the real one does: freeing waits.
    for (Stream* stream : streams) run(stream);
    if (memory.erase(address) == 0) return INVALID_VALUE;
    std::free(reinterpret_cast<void*>(address));
    return OK;
}
}  // namespace

#define API extern "C" __attribute__((visibility("default"))) CUresult
#define IN_CONTEXT                                     \
    std::lock_guard<std::recursive_mutex> guard(lock); \
    if (!context) return INVALID_CONTEXT

API cuInit(unsigned) { return setting("FAKE_CUDA_DEVICES", 1) > 0 ? OK : NO_DEVICE; }
API cuDriverGetVersion(int* version) {
    *version = setting("FAKE_CUDA_VERSION", 11040);
    return OK;
}
API cuDeviceGetCount(int* count) {
    *count = setting("FAKE_CUDA_DEVICES", 1);
    return OK;
}
API cuDeviceGet(int* device, int ordinal) {
    if (ordinal >= setting("FAKE_CUDA_DEVICES", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return OK;
}
API cuDeviceGetAttribute(int* value, int attribute, int) {
    int capability = setting("FAKE_CUDA_CAPABILITY", 87);
    switch (attribute) {
        case 13: *value = 1020000; break;  // CLOCK_RATE in kHz
        case 16: *value = 8; break;        // MULTIPROCESSOR_COUNT
        case 75: *value = capability / 10; break;  // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = capability % 10; break;  // COMPUTE_CAPABILITY_MINOR
        default: *value = 0;
    }
    return OK;
}
API cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, length, "no GPU: kernels on the processor");
    return OK;
}
API cuDevicePrimaryCtxRetain(void** out, int) {
    *out = &the_context;
    return OK;
}
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void* now) {
    context = now;
    return OK;
}
API cuCtxGetCurrent(void** out) {
    *out = context;
    return OK;
}
API cuCtxSynchronize() {
    IN_CONTEXT;
    note_wait();
    for (Stream* stream : streams) run(stream);
    return broken ? ILLEGAL_ADDRESS : OK;
}
API cuStreamCreate(Stream** stream, unsigned) {
    IN_CONTEXT;
    *stream = new Stream;
    streams.push_back(*stream);
    return OK;
}
API cuStreamDestroy_v2(Stream* stream) {
    IN_CONTEXT;
    run(stream);
    for (usize i = 0; i < streams.size(); ++i) {
        if (streams[i] == stream) streams.erase(streams.begin() + i);
    }
    delete stream;
    return OK;
}
API cuStreamSynchronize(Stream* stream) {
    IN_CONTEXT;
    return wait(stream);
}
API cuEventCreate(Event** event, unsigned) {
    IN_CONTEXT;
    *event = new Event{nullptr, nullptr};
    return OK;
}
API cuEventDestroy_v2(Event* event) {
    IN_CONTEXT;
    delete event;
    return OK;
}
API cuEventRecord(Event* event, Stream* stream) {
    IN_CONTEXT;
    event->stream = stream;
    event->passed = std::make_shared<bool>(false);
    stream->work.push_back([passed = event->passed] { *passed = true; });
    return OK;
}
API cuEventSynchronize(Event* event) {
    IN_CONTEXT;
    note_wait();
    // A stream that is gone has come to all of its marks.
    if (event->passed && !*event->passed) run(event->stream, event->passed.get());
    return broken ? ILLEGAL_ADDRESS : OK;
}
API cuStreamWaitEvent(Stream* stream, Event* event, unsigned flags) {
    IN_CONTEXT;
    if (flags != 0) return INVALID_VALUE;
    if (event->passed) {
        stream->work.push_back([passed = event->passed, other = event->stream] {
            if (!*passed) run(other, passed.get());
            // Marks are made before they are waited for, so no two streams can wait for each other.
            if (!*passed) std::abort();
        });
    }
    return OK;
}
/// Calls a function of the processor's in the order of the stream; not after an error.
API cuLaunchHostFunc(Stream* stream, void (*function)(void*), void* data) {
    IN_CONTEXT;
    stream->work.push_back([=] {
        if (!broken) function(data);
    });
    return OK;
}
API cuMemAlloc_v2(CUdeviceptr* address, usize bytes) {
    IN_CONTEXT;
    return take(address, bytes);
}
API cuMemFree_v2(CUdeviceptr address) {
    IN_CONTEXT;
    return give_back(address);
}
API cuMemHostAlloc(void** pointer, usize bytes, unsigned) {
    IN_CONTEXT;
    CUdeviceptr address;
    CUresult result = take(&address, bytes);
    if (result == OK) *pointer = reinterpret_cast<void*>(address);
    return result;
}
API cuMemFreeHost(void* pointer) {
    IN_CONTEXT;
    return give_back(reinterpret_cast<CUdeviceptr>(pointer));
}
API cuMemHostGetDevicePointer_v2(CUdeviceptr* address, void* pointer, unsigned) {
    IN_CONTEXT;
    *address = reinterpret_cast<CUdeviceptr>(pointer);
    return is_ours(*address, 1) ? OK : INVALID_VALUE;
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, usize bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_ours(to, bytes)) return INVALID_VALUE;
    stream->work.push_back([=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
    return OK;
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, usize bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_ours(from, bytes)) return INVALID_VALUE;
    stream->work.push_back([=] { std::memcpy(to, reinterpret_cast<void*>(from), bytes); });
    return OK;
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, usize bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_ours(to, bytes) || !is_ours(from, bytes)) return INVALID_VALUE;
    stream->work.push_back([=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
    return OK;
}
API cuMemsetD8Async(CUdeviceptr to, u8 value, usize bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_ours(to, bytes)) return INVALID_VALUE;
    stream->work.push_back([=] { std::memset(reinterpret_cast<void*>(to), value, bytes); });
    return OK;
}
API cuModuleLoadData(void** module, const void* image) {
    IN_CONTEXT;
    const char* version = std::strstr(static_cast<const char*>(image), ".version ");
    int major = 0, minor = 0;
    if (!version || std::sscanf(version, ".version %d.%d", &major, &minor) != 2) return INVALID_IMAGE;
    // CUDA 11.4 reads PTX 7.4, 12.0 reads 8.0.
    int driver = setting("FAKE_CUDA_VERSION", 11040);
    int newest = driver < 12000 ? 70 + driver % 1000 / 10 : 80 + driver % 1000 / 10;
    if (10 * major + minor > newest) return UNSUPPORTED_PTX_VERSION;
    *module = &the_module;
    return OK;
}
API cuModuleUnload(void*) { return OK; }
API cuModuleGetFunction(Kernel** function, void*, const char* name) {
    IN_CONTEXT;
    for (Kernel& kernel : kernels) {
        if (std::strcmp(kernel.name, name) == 0) {
            *function = &kernel;
            return OK;
        }
    }
    return NOT_FOUND;
}
API cuLaunchKernel(Kernel* kernel, u32 x, u32 y, u32 z, u32 block_x, u32 block_y, u32 block_z, u32, Stream* stream,
                   void** arguments, void**) {
    IN_CONTEXT;
    if (broken) return ILLEGAL_ADDRESS;
    u64 threads = (u64)block_x * block_y * block_z;
    if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 || threads == 0 || threads > 1024) return INVALID_VALUE;
    const char* fault = std::getenv("FAKE_CUDA_FAULT");
    bool fails = fault && std::strcmp(fault, kernel->name) == 0;
    Work work = kernel->capture(arguments);
    bool barriers = kernel->barriers;
    stream->work.push_back([=]() mutable {
        broken |= fails;
        if (broken) return;
        auto call = [](void* work) { (*static_cast<Work*>(work))(); };
        host_launch(call, &work, {x, y, z}, {block_x, block_y, block_z}, barriers);
    });
    return OK;
}
/// CUeglFrame, CUDA_MEMCPY2D: as in cudaEGL.h and cuda.h.
struct EglFrame {
    const void* planes[3];
    u32 width, height, depth, pitch, plane_count, channels, frame_type, egl_format, format;
};
struct Copy {
    usize from_x, from_y;
    u32 from_kind;
    const void* from_host;
    CUdeviceptr from_device;
    const Array* from_array;
    usize from_pitch, to_x, to_y;
    u32 to_kind;
    void* to_host;
    CUdeviceptr to_device;
    const Array* to_array;
    usize to_pitch, width, height;
};
API cuGraphicsEGLRegisterImage(Image** resource, Image* image, unsigned) {
    IN_CONTEXT;
    if (!image || image->is_registered) return INVALID_VALUE;
    image->is_registered = true;
    *resource = image;
    return OK;
}
API cuGraphicsUnregisterResource(Image* image) {
    IN_CONTEXT;
    for (Stream* stream : streams) run(stream);
    if (!image->is_registered) return INVALID_VALUE;
    image->is_registered = false;
    return OK;
}
API cuGraphicsResourceGetMappedEglFrame(EglFrame* frame, Image* image, unsigned, unsigned) {
    IN_CONTEXT;
    *frame = {{}, image->width, image->height, 1, image->pitch, 2, 1, image->is_tiled ? 0u : 1u, 0, 1};
    for (u32 plane = 0; plane < 2; ++plane) {
        if (image->is_tiled) {
            frame->planes[plane] = &image->arrays[plane];
        } else {
            frame->planes[plane] = image->planes[plane];
        }
    }
    return OK;
}
API cuMemcpy2DAsync_v2(const Copy* asked, Stream* stream) {
    IN_CONTEXT;
    constexpr u32 DEVICE = 2, ARRAY = 3;
    Copy copy = *asked;
    bool inwards = copy.from_kind == ARRAY && copy.to_kind == DEVICE;
    bool outwards = copy.from_kind == DEVICE && copy.to_kind == ARRAY;
    if (!inwards && !outwards) return INVALID_VALUE;
    const Array* array = inwards ? copy.from_array : copy.to_array;
    CUdeviceptr rows = inwards ? copy.to_device : copy.from_device;
    usize pitch = inwards ? copy.to_pitch : copy.from_pitch;
    bool fits = copy.width <= array->row_bytes && copy.height <= array->rows && copy.height > 0 && copy.width <= pitch;
    if (!fits || !is_ours(rows, pitch * (copy.height - 1) + copy.width)) return INVALID_VALUE;
    stream->work.push_back([=] {
        for (u32 y = 0; y < copy.height; ++y) {
            for (u32 x = 0; x < copy.width; ++x) {
                u8* linear = reinterpret_cast<u8*>(rows) + y * pitch + x;
                if (inwards) {
                    *linear = *array->at(x, y);
                } else {
                    *array->at(x, y) = *linear;
                }
            }
        }
    });
    return OK;
}
API cuGetErrorName(CUresult error, const char** name) {
    switch (error) {
        case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
        case UNSUPPORTED_PTX_VERSION: *name = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"; break;
        case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
        case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        default: *name = "CUDA_ERROR_OF_ANOTHER_KIND"; break;
    }
    return OK;
}
API cuGetErrorString(CUresult, const char** text) {
    *text = "said by the driver of the tests";
    return OK;
}
