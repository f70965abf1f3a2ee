// The table each instruction set exports: one function per dtype, noise and rounding.
#pragma once

#include <cstdint>

#include "../zokern.h"

namespace zk {

constexpr int kNoNoise = 2;  // a move of no terms: decay only

// Moves `n_tiles` whole tiles of 256 elements, the first being tile `tile` of `stream`.
using RunTiles = void (*)(const zk_move& move, uint32_t stream, const void* src, void* dst, uint64_t tile,
                          int64_t n_tiles);

// dst[i] = chosen ? moved[i] : src[i]; chosen by `mask`, or where it is null by the magnitude's bits.
using Merge = void (*)(const void* src, const void* moved, void* dst, const uint8_t* mask, uint64_t limit, int64_t n);

struct PerturbTable {
  RunTiles run[4 /* zk_dtype */][3 /* zk_distribution, kNoNoise */][2 /* zk_rounding */];
  Merge merge[4 /* zk_dtype */];
};

extern const PerturbTable kPerturbPortable;
#ifdef ZK_X86
extern const PerturbTable kPerturbAvx2, kPerturbAvx512;
#endif

}  // namespace zk
