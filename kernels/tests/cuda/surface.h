// What the two libraries of the tests know of each other: an EGL image is one of these.
#pragma once
#include "host.cuh"

/// A plane that rows cannot address: tiles of 16 bytes by 8 rows, one after another.
struct Array {
    u8* data;
    u32 row_bytes, rows;
    u8* at(u32 x, u32 y) const {
        u32 tiles = (row_bytes + 15) / 16;
        return data + ((usize)(y / 8) * tiles + x / 16) * 128 + y % 8 * 16 + x % 16;
    }
};

struct Image {
    u32 width, height;
    bool is_tiled, is_registered;
    u8* planes[2];
    u32 pitch;
    Array arrays[2];
};
