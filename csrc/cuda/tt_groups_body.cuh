// What a block of the groups' launch does: one chain of cores of one query, contracted step by step.
//
// Every element is a sum over k in order with fma, as on the CPU: groups have the CPU's bits. Perturbed
// cores are fma(scale, z, core), the bits of perturb_. Work: r^2 multiply-adds an element of the result.
#pragma once

#include "perturb_body.cuh"
#include "tt_plan.cuh"

namespace zk::cuda {

ZK_INLINE void copy_step(const TtStep& s, const float* a, float* c, uint32_t thread) {
  ZK_NO_UNROLL
  for (uint32_t i = thread; i < static_cast<uint32_t>(s.m); i += kThreads) c[i] = a[i];
}

// Units of 8 elements that begin on a stream block, as in perturb_body.cuh.
ZK_INLINE void perturb_step(const TtGroups& p, const TtStep& s, const Term& term, const float* a, float* c,
                            uint32_t thread) {
  const uint64_t seed = static_cast<uint64_t>(term.key1) << 32 | term.key0;
  const int64_t head = static_cast<int64_t>(s.offset % kUnit);
  const int64_t units = (head + s.m + kUnit - 1) / kUnit;
  ZK_NO_UNROLL
  for (int64_t unit = thread; unit < units; unit += kThreads) {
    const uint64_t block = s.offset / kUnit + static_cast<uint64_t>(unit);
    const int64_t at = unit * kUnit - head;
    float acc[8];
    ZK_UNROLL
    for (int j = 0; j < 8; ++j) acc[j] = at + j >= 0 && at + j < s.m ? a[at + j] : 0.0f;
    uint32_t words[4];
    if (p.distribution == ZK_RADEMACHER) {
      philox_block(seed, block >> 4, p.stream, kLaneZ, words);
      fold_signs(words, static_cast<uint32_t>(block), term.scale, acc);
    } else {
      philox_block(seed, block, p.stream, kLaneZ, words);
      fold_normals(words, term.scale, acc);
    }
    ZK_UNROLL
    for (int j = 0; j < 8; ++j)
      if (at + j >= 0 && at + j < s.m) c[at + j] = acc[j];
  }
}

// The slice's part of c = a b. Rows of one slice need no other rows of a, columns no other columns of b.
ZK_INLINE void multiply_step(const TtStep& s, const float* a, const float* b, float* c, uint32_t slice, uint32_t slices,
                             uint32_t thread) {
  const uint32_t m = static_cast<uint32_t>(s.m), k = static_cast<uint32_t>(s.k), n = static_cast<uint32_t>(s.n);
  const uint32_t lead = static_cast<uint32_t>(s.lead);
  const auto cut = [=](uint64_t part) { return static_cast<uint32_t>(lead * part / slices); };
  const uint32_t begin = cut(slice), width = cut(slice + 1) - begin;
  // left: rows begin * m / lead ..., all columns; right: all rows, columns whose last mode is in the slice
  const uint32_t row0 = s.right ? 0 : m / lead * begin, rows = s.right ? m : m / lead * width;
  const uint32_t columns = s.right ? n / lead * width : n;
  const uint32_t count = rows * columns;
  ZK_NO_UNROLL
  for (uint32_t e = thread; e < count; e += kThreads) {
    const uint32_t row = row0 + e / columns, at = e % columns;
    const uint32_t column = s.right ? at / width * lead + begin + at % width : at;
    const float* left = a + static_cast<uint64_t>(row) * k;
    float sum = 0.0f;
#ifdef __CUDACC__
#pragma unroll 4
#endif
    for (uint32_t d = 0; d < k; ++d) sum = fma_rn(left[d], b[static_cast<uint64_t>(d) * n + column], sum);
    c[static_cast<uint64_t>(row) * n + column] = sum;
  }
}

// Block: the thread's number, and a barrier of the block's threads that orders their memory accesses.
template <class Block>
ZK_INLINE void run_groups(const TtGroups& p, uint32_t index, const Block& block) {
  const uint32_t query = index / static_cast<uint32_t>(p.blocks), mine = index % static_cast<uint32_t>(p.blocks);
  int32_t at = 0;
  while (at + 1 < p.tasks && static_cast<uint32_t>(p.task[at + 1].first_block) <= mine) ++at;
  const TtTask task = p.task[at];
  const uint32_t slice = mine - static_cast<uint32_t>(task.first_block), slices = static_cast<uint32_t>(task.slices);
  ZK_NO_UNROLL
  for (int32_t i = task.first; i < task.last; ++i) {
    const TtStep& s = p.steps[i];
    const float* a = s.a + static_cast<int64_t>(query) * s.a_stride;
    float* c = s.c + static_cast<int64_t>(query) * s.c_stride;
    if (s.b)
      multiply_step(s, a, s.b + static_cast<int64_t>(query) * s.b_stride, c, slice, slices, block.thread);
    else if (s.offset == ZK_TT_FIXED)
      copy_step(s, a, c, block.thread);
    else
      perturb_step(p, s, p.terms[query], a, c, block.thread);
    block.sync();
  }
}

}  // namespace zk::cuda
