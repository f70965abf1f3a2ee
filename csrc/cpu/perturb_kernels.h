// The table of every instruction set: one function per dtype, noise and rounding.
#pragma once

#include <cstdint>

#include "../zokern.h"

namespace zk {

constexpr int kNoNoise = 2;  // a move of no terms: decay only

inline int noise_of(const zk_move& move) { return move.count ? move.distribution : kNoNoise; }

// Moves `n_tiles` whole tiles of 256 elements, the first being tile `tile` of `stream`.
using RunTiles = void (*)(const zk_move& move, uint32_t stream, const void* src, void* dst, uint64_t tile,
                          int64_t n_tiles);

// The same from dtype `from` to another, `to`.
using RunMixed = void (*)(const zk_move& move, int from, int to, uint32_t stream, const void* src, void* dst,
                          uint64_t tile, int64_t n_tiles);

struct PerturbTable {
  RunTiles run[4 /* zk_dtype */][3 /* zk_distribution, kNoNoise */][2 /* zk_rounding */];
  RunMixed mixed;
};

}  // namespace zk
