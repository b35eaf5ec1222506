// A libnvbufsurface whose surfaces lie in memory of the processor (memfd, so that they have a descriptor as NVIDIA's
// do), in rows or in tiles. The structures are those of Jetson Linux r39, in which the others' fields lie where they lie.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "surface.h"

namespace {
struct Params {
    u32 width, height, pitch;
    int color_format, layout;
    u64 buffer_desc;
    u32 data_size;
    void* data_ptr;
    u32 num_planes, plane_width[4], plane_height[4], plane_pitch[4], plane_offset[4], plane_size[4], bytes_per_pix[4];
    void* plane_reserved[16];
    void* mapped[4];
    Image* egl_image;
    void* nvmm;
    void** cuda;
    void* mapped_reserved[4];
    void* more[6];
};
static_assert(sizeof(Params) == 416 && __builtin_offsetof(Params, egl_image) == 312, "Jetson Linux r39");
static_assert(__builtin_offsetof(Params, cuda) == 328, "Jetson Linux r39");

struct Surface {
    u32 gpu, batch_size, num_filled;
    bool is_contiguous;
    int mem_type;
    Params* list;
    void* reserved[4];
    // Ours, behind what anybody knows.
    Params params;
    Image image;
    void* cuda_buffer[2];
    u8* memory;
    usize length;
};

/// As in Jetson Linux r39, as far as anybody sets it.
struct MapParams {
    u32 num_planes, gpu;
    u64 fd;
    u32 total_size;
    int mem_type, layout, scan_format, color_format;
    u32 width, height;
};

/// What NvBufSurfaceImport does: nothing, what it should, or it shows other memory.
enum Imports { REFUSE, WORK, LIE };
int maps_for_cuda, maps, violations, imports, how_imports = REFUSE;

/// An NV12 surface over memory, which has to be as large as such a surface needs; the descriptor is the surface's.
Surface* over(int descriptor, u32 width, u32 height, int color_format, int is_tiled);
}  // namespace

#define API extern "C" __attribute__((visibility("default")))

/// An NV12 surface full of 0xA5, rows of `width` rounded up to 256.
API Surface* test_surface_create(u32 width, u32 height, int color_format, int is_tiled) {
    Surface* surface = over(memfd_create("surface", MFD_CLOEXEC), width, height, color_format, is_tiled);
    std::memset(surface->memory, 0xA5, surface->length);
    return surface;
}
namespace {
Surface* over(int descriptor, u32 width, u32 height, int color_format, int is_tiled) {
    Surface* surface = static_cast<Surface*>(std::calloc(1, sizeof(Surface)));
    u32 pitch = (width + 255) / 256 * 256, rows[2] = {(height + 7) / 8 * 8, ((height + 1) / 2 + 7) / 8 * 8};
    surface->length = (usize)pitch * (rows[0] + rows[1]);
    if (descriptor < 0 || ftruncate(descriptor, surface->length) != 0) std::abort();
    void* memory = mmap(nullptr, surface->length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) std::abort();
    surface->memory = static_cast<u8*>(memory);
    surface->batch_size = surface->num_filled = 1;
    surface->mem_type = 4;
    surface->list = &surface->params;
    Params& params = surface->params;
    params.width = width;
    params.height = height;
    params.pitch = pitch;
    params.color_format = color_format;
    params.layout = is_tiled;
    params.buffer_desc = (u64)descriptor;
    params.data_size = (u32)surface->length;
    params.num_planes = 2;
    Image& image = surface->image;
    image.width = width;
    image.height = height;
    image.is_tiled = is_tiled;
    image.pitch = pitch;
    for (u32 plane = 0; plane < 2; ++plane) {
        params.plane_width[plane] = plane ? (width + 1) / 2 : width;
        params.plane_height[plane] = plane ? (height + 1) / 2 : height;
        params.plane_pitch[plane] = pitch;
        params.plane_offset[plane] = plane * pitch * rows[0];
        params.plane_size[plane] = pitch * rows[plane];
        params.bytes_per_pix[plane] = 1 + plane;
        image.planes[plane] = surface->memory + params.plane_offset[plane];
        image.arrays[plane] = {image.planes[plane], plane ? (width + 1) / 2 * 2 : width, params.plane_height[plane]};
    }
    return surface;
}
}  // namespace
API void test_surface_destroy(Surface* surface) {
    violations += surface->params.egl_image || surface->params.cuda || surface->image.is_registered;
    munmap(surface->memory, surface->length);
    close((int)surface->params.buffer_desc);
    std::free(surface);
}
/// Byte `x` of row `y` of a plane.
API u8* test_surface_at(Surface* surface, u32 plane, u32 x, u32 y) {
    const Image& image = surface->image;
    return image.is_tiled ? image.arrays[plane].at(x, y) : image.planes[plane] + (usize)y * image.pitch + x;
}
/// Whether NvBufSurfaceMapCudaBuffer works from now on.
API void test_surface_maps_for_cuda(int works) { maps_for_cuda = works; }
API int test_surface_maps() { return maps; }
/// What NvBufSurfaceImport does from now on, and how many surfaces it has made that are not destroyed yet.
API void test_surface_imports_how(int how) { how_imports = how; }
API int test_surface_imports() { return imports; }
/// The number of the descriptor.
API int test_surface_descriptor(Surface* surface) { return (int)surface->params.buffer_desc; }
/// How often something was given back too early, too late or twice.
API int test_surface_violations() { return violations; }

API int NvBufSurfaceMapEglImage(Surface* surface, int index) {
    if (index != 0 || surface->params.egl_image) return -1;
    ++maps;
    surface->params.egl_image = &surface->image;
    return 0;
}
API int NvBufSurfaceUnMapEglImage(Surface* surface, int index) {
    violations += index != 0 || !surface->params.egl_image || surface->image.is_registered;
    surface->params.egl_image = nullptr;
    return 0;
}
API int NvBufSurfaceMapCudaBuffer(Surface* surface, int index) {
    if (!maps_for_cuda || index != 0 || surface->params.cuda) return -1;
    ++maps;
    surface->cuda_buffer[0] = surface->cuda_buffer[1] = surface->memory;
    surface->params.cuda = surface->cuda_buffer;
    return 0;
}
API int NvBufSurfaceUnMapCudaBuffer(Surface* surface, int index) {
    violations += index != 0 || !surface->params.cuda;
    surface->params.cuda = nullptr;
    return 0;
}

API int NvBufSurfaceGetMapParams(const Surface* surface, int index, MapParams* params) {
    if (index != 0) return -1;
    const Params& own = surface->params;
    *params = {2,          0, own.buffer_desc,  own.data_size, surface->mem_type,
               own.layout, 0, own.color_format, own.width,     own.height};
    return 0;
}
/// Takes the descriptor.
API int NvBufSurfaceImport(Surface** out, const MapParams* params) {
    if (how_imports == REFUSE) return -1;
    int descriptor = (int)params->fd;
    violations += fcntl(descriptor, F_GETFD) < 0;
    *out = over(descriptor, params->width, params->height, params->color_format, params->layout);
    // As the real one leaves it.
    (*out)->num_filled = 0;
    if (how_imports == LIE) {
        void* other = mmap((*out)->memory, (*out)->length, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (other == MAP_FAILED) std::abort();
    }
    ++imports;
    return 0;
}
API int NvBufSurfaceDestroy(Surface* surface) {
    --imports;
    test_surface_destroy(surface);
    return 0;
}
