// The table of every instruction set for tensor-train layers, and what it works on.
#pragma once

#include <cstdint>

#include "../core/tt.h"

namespace zk {

constexpr int kTileRows = 8;  // rows that walk through a layer together

// A layer with its cores contracted to the four groups of core/tt.h.
struct TtReady {
  TtShape shape;
  const float* left;    // [I, p], null where in_cut = 0
  const float* middle;  // [p * K, r]
  const float* outer;   // [r, J * q], null where out_cut = split
  const float* right;   // [q, Q]
  const float* bias;    // [out], or null
};

struct TtRows {
  const void* x;
  void* y;
  int64_t x_stride, y_stride, rows;
  bool past_caches;  // y of an adapter, fp32 and not x itself, is larger than the caches: store past them
};

// Floats of one thread's workspace: s, t and u of a tile, and the hidden rows of an adapter.
struct TtWork {
  int64_t s, t, u, hidden;
};
ZK_INLINE int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

// C [m, n] = A [m, k] B [k, n], each element folded over k in order.
using TtMultiply = void (*)(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m,
                            int64_t k, int64_t n);
using TtLinear = void (*)(const TtReady& layer, const TtRows& rows, const TtWork& sizes, float* work);
using TtAdapter = void (*)(const TtReady& down, const TtReady& up, float scale, int activation, const TtRows& rows,
                           const TtWork& sizes, float* work);

struct TtTable {
  TtMultiply multiply;
  TtLinear linear[3 /* x's dtype */][2 /* y's: x's, fp32 */];
  TtAdapter adapter[3][2];
};

// Whether the system has made the pages of this memory. The first write makes a page and leaves it in the caches.
bool has_pages(const void* memory, int64_t bytes);

}  // namespace zk
