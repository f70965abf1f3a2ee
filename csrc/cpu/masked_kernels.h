// The table of every instruction set: one function per dtype.
#pragma once

#include <cstdint>

namespace zk {

// dst[i] = chosen ? moved[i] : src[i]; chosen by `mask`, or where it is null by the magnitude's bits.
using Merge = void (*)(const void* src, const void* moved, void* dst, const uint8_t* mask, uint64_t limit, int64_t n);

struct MaskedTable {
  Merge merge[4 /* zk_dtype */];
};

}  // namespace zk
