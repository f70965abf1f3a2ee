// What one thread of the perturb kernels does: dst <- round(decay src + sum_k scale_k z(seed_k)), in units
// of 8 elements, the normals of one Philox block.
//
// Counter: (block & 0xffffffff, block >> 32, stream, lane), block = element >> 3 (csrc/core/philox.h).
// Bytes moved per element: 2 x the item size. Instructions per element: benchmarks/sass.py.
// Host and device: tests/cuda/emulate.cpp runs `run_dense` and `run_general` over a whole grid.
#pragma once

#include <cstring>

#include "formats.cuh"
#include "tensor_list.cuh"

namespace zk::cuda {

// ---- the bits of one stream block

// Philox with the counter's upper three words fixed: the first two rounds of the words that do not
// depend on the low counter word are done once a chunk. Round keys come from the kernel's parameters
// (constant bank operands: no register, no add). Saves 14 instructions a block over philox_block.
struct PhiloxRow {
  uint32_t lane_key, left, right, low;
};

ZK_INLINE PhiloxRow philox_row(const uint32_t* keys, uint32_t block_high, uint32_t stream, uint32_t lane) {
  uint32_t low0, high0, low1, high1;
  mul_wide(stream, kPhiloxM1, low1, high1);
  mul_wide(high1 ^ block_high ^ keys[0], kPhiloxM0, low0, high0);
  return PhiloxRow{lane ^ keys[1], low1 ^ keys[2], high0 ^ keys[3], low0};
}

ZK_INLINE void philox_in_row(const PhiloxRow& row, const uint32_t* keys, uint32_t block_low, uint32_t words[4]) {
  uint32_t low0, high0, low1, high1;
  mul_wide(block_low, kPhiloxM0, low0, high0);
  mul_wide(high0 ^ row.lane_key, kPhiloxM1, low1, high1);
  words[0] = high1 ^ row.left;
  words[1] = low1;
  words[2] = low0 ^ row.right;
  words[3] = row.low;
  ZK_UNROLL
  for (int round = 2; round < kPhiloxRounds; ++round) {
    mul_wide(words[0], kPhiloxM0, low0, high0);
    mul_wide(words[2], kPhiloxM1, low1, high1);
    words[0] = high1 ^ words[1] ^ keys[2 * round];
    words[2] = high0 ^ words[3] ^ keys[2 * round + 1];
    words[1] = low1;
    words[3] = low0;
  }
}

// Philox under the first seed, whose round keys are in the parameters.
ZK_INLINE void philox_first(const Header& p, uint64_t block, uint32_t stream, uint32_t lane, uint32_t words[4]) {
  philox_in_row(philox_row(p.keys, static_cast<uint32_t>(block >> 32), stream, lane), p.keys,
                static_cast<uint32_t>(block), words);
}

ZK_INLINE void draw_rounding(const Header& p, uint64_t block, uint32_t stream, uint32_t random[4]) {
  philox_first(p, block, stream, kLaneRounding, random);
}

// ---- one unit: z of every term, folded left

template <class Real>
ZK_INLINE void fold_normals(const uint32_t words[4], float scale, Real acc[8]) {
  float z[8];
  normal_block(words, z);
  ZK_UNROLL
  for (int j = 0; j < 8; ++j) acc[j] = fused(scale, z[j], acc[j]);
}

// A Philox block holds the signs of 128 elements; a unit takes 8 of its bits.
template <class Real>
ZK_INLINE void fold_signs(const uint32_t words[4], uint32_t unit, float scale, Real acc[8]) {
  const uint32_t low = unit & 4 ? words[1] : words[0], high = unit & 4 ? words[3] : words[2];
  const uint32_t signs = (unit & 8 ? high : low) >> (8 * (unit & 3));
  ZK_UNROLL
  for (int j = 0; j < 8; ++j)
    acc[j] = fused(scale, bits_float(0x3f800000u | ((signs << (31 - j)) & 0x80000000u)), acc[j]);
}

template <bool kRademacher, class Real>
ZK_INLINE void add_terms(const Header& p, int32_t first, uint64_t block, uint32_t stream, Real acc[8]) {
  ZK_NO_UNROLL
  for (int32_t k = first; k < p.count; ++k) {
    const Term term = p.more ? p.more[k] : p.terms[k];
    const uint64_t seed = static_cast<uint64_t>(term.key1) << 32 | term.key0;
    uint32_t words[4];
    philox_block(seed, kRademacher ? block >> 4 : block, stream, p.lane, words);
    if (kRademacher)
      fold_signs(words, static_cast<uint32_t>(block), term.scale, acc);
    else
      fold_normals(words, term.scale, acc);
  }
}

// ---- units of a dense tensor

// Elements 8 unit .. 8 unit + 7 that lie inside the tensor, one by one.
template <class F, bool kRademacher, bool kStochastic>
ZK_INLINE void masked_unit(const Header& p, const Dense& entry, uint64_t unit) {
  using bits = typename F::bits;
  typename F::real acc[8];
  const uint64_t first = unit * kUnit, block = entry.block + unit;
  const uint32_t begin = first < entry.head ? entry.head : 0;
  const uint32_t end = entry.end - first < kUnit ? static_cast<uint32_t>(entry.end - first) : kUnit;
  const bits* src = reinterpret_cast<const bits*>(entry.src) + first;
  bits* dst = reinterpret_cast<bits*>(entry.dst) + first;
  ZK_UNROLL
  for (uint32_t j = 0; j < kUnit; ++j)
    acc[j] = p.decay * F::value(entry.src && j >= begin && j < end ? src[j] : bits(0));
  add_terms<kRademacher>(p, 0, block, entry.stream, acc);
  uint32_t random[4] = {};
  if (kStochastic && F::kRounds) draw_rounding(p, block, entry.stream, random);
  ZK_UNROLL
  for (uint32_t j = 0; j < kUnit; ++j)
    if (j >= begin && j < end)
      dst[j] = kStochastic ? F::stochastic(acc[j], rounding_bits(random, j)) : F::nearest(acc[j]);
}

// Whole, aligned units begin, begin + kThreads, ... < end of a chunk whose blocks share their high word.
// The load stands first, so that it is under way during Philox.
template <class F, bool kSingle, bool kRademacher, bool kStochastic>
ZK_INLINE void vector_units(const Header& p, const Dense& entry, uint64_t first, uint32_t begin, uint32_t end) {
  constexpr uint32_t kStep = kThreads * sizeof(Vector<F>);
  const uint64_t block0 = entry.block + first;
  const uint32_t high = static_cast<uint32_t>(block0 >> 32), low_end = static_cast<uint32_t>(block0) + end;
  const char* src = entry.src + (first + begin) * sizeof(Vector<F>);
  char* dst = entry.dst + (first + begin) * sizeof(Vector<F>);
  const PhiloxRow row = philox_row(p.keys, high, entry.stream, p.lane);
  ZK_NO_UNROLL
  for (uint32_t low = static_cast<uint32_t>(block0) + begin; low < low_end; low += kThreads) {
    const uint64_t block = static_cast<uint64_t>(high) << 32 | low;
    Vector<F> v{};
    float acc[8];
    if (kSingle || entry.src) v = load_vector<F>(src);
    unpack<F>(v, acc);
    if (!kSingle) {
      ZK_UNROLL
      for (int j = 0; j < 8; ++j) acc[j] = p.decay * acc[j];
    }
    if (kSingle || p.count > 0) {  // the first term apart: its round keys cost no instruction
      uint32_t words[4];
      if (kRademacher) {
        philox_first(p, block >> 4, entry.stream, p.lane, words);
        fold_signs(words, low, p.scale, acc);
      } else {
        philox_in_row(row, p.keys, low, words);
        fold_normals(words, p.scale, acc);
      }
    }
    if (!kSingle) add_terms<kRademacher>(p, 1, block, entry.stream, acc);
    if (kStochastic && F::kRounds) {
      uint32_t random[4];
      draw_rounding(p, block, entry.stream, random);
      v = pack_stochastic<F>(acc, random);
    } else {
      v = pack_nearest<F>(acc);
    }
    store_vector<F>(dst, v);
    src += kStep;
    dst += kStep;
  }
}

template <class F, bool kSingle, bool kRademacher, bool kStochastic>
ZK_INLINE void dense_chunk(const Header& p, const Dense& entry, uint32_t chunk, uint32_t thread) {
  const uint32_t chunk_units = p.tiles * kThreads;
  const uint64_t first = static_cast<uint64_t>(chunk) * chunk_units, left = units_of(entry) - first;
  const uint32_t count = left < chunk_units ? static_cast<uint32_t>(left) : chunk_units;
  // Units begin .. end - 1 of this chunk are whole. The block's high word changes once in 2^35 elements:
  // a chunk where it does goes element by element. So does one that ends less than kThreads blocks before:
  // a thread leaves vector_units with a low word up to kThreads behind the chunk's last one.
  const uint64_t whole = entry.end / kUnit;
  const bool carries = static_cast<uint32_t>(entry.block + first) > 0xffffffffu - kThreads - count;
  uint32_t begin = 0, end = 0;
  if (entry.vector && !carries) {
    begin = first == 0 && entry.head > 0;
    end = first + count > whole ? static_cast<uint32_t>(whole > first ? whole - first : 0) : count;
    vector_units<F, kSingle, kRademacher, kStochastic>(p, entry, first, begin + thread, end);
    if (begin == 0 && end == count) return;
  }
  ZK_NO_UNROLL
  for (uint32_t i = thread; i < count; i += kThreads)
    if (i < begin || i >= end) masked_unit<F, kRademacher, kStochastic>(p, entry, first + i);
}

// All chunks of one thread: fp32, bf16 and fp16 tensors, dense, in any mix.
template <bool kSingle, bool kRademacher, bool kStochastic, class P>
ZK_INLINE void run_dense(const P& p, uint32_t block, uint32_t blocks, uint32_t thread) {
  uint32_t at = 0, next = 0;  // the entry of the last chunk, and the first chunk behind it
  ZK_NO_UNROLL
  for (uint32_t chunk = block; chunk < p.chunks; chunk += blocks) {
    if (chunk >= next) {
      at = find_entry(p.entries, p.tensors, chunk);
      next = at + 1 < p.tensors ? p.entries[at + 1].first_chunk : p.chunks;
    }
    const Dense& entry = p.entries[at];
    const uint32_t local = chunk - entry.first_chunk;
    if (entry.dtype == ZK_BF16)
      dense_chunk<BF16, kSingle, kRademacher, kStochastic>(p, entry, local, thread);
    else if (entry.dtype == ZK_F16)
      dense_chunk<F16, kSingle, kRademacher, kStochastic>(p, entry, local, thread);
    else
      dense_chunk<F32, kSingle, kRademacher, kStochastic>(p, entry, local, thread);
  }
}

// ---- any strides, any dtype, any move: two elements a thread, every choice at run time

ZK_INLINE void locate(const Strided& entry, uint64_t index, int64_t& src, int64_t& dst) {
  src = dst = 0;
  ZK_NO_UNROLL
  for (int32_t d = entry.ndim - 1; d > 0; --d) {
    const uint64_t size = static_cast<uint64_t>(entry.sizes[d]), next = index / size;
    const int64_t at = static_cast<int64_t>(index - next * size);
    src += at * entry.src_strides[d];
    dst += at * entry.dst_strides[d];
    index = next;
  }
  src += static_cast<int64_t>(index) * entry.src_strides[0];
  dst += static_cast<int64_t>(index) * entry.dst_strides[0];
}

// One value, rounded once to the dtype that is written.
template <class F, class Real>
ZK_INLINE void store_as(char* dst, int64_t at, Real value, uint32_t random16, bool stochastic) {
  typename F::bits* place = reinterpret_cast<typename F::bits*>(dst) + at;
  if constexpr (F::kRounds && std::is_same_v<Real, double>) {
    const float narrower = shortened(value, stochastic);
    *place = stochastic ? F::stochastic(narrower, random16) : F::nearest(narrower);
  } else {
    const typename F::real own = static_cast<typename F::real>(value);
    *place = stochastic ? F::stochastic(own, random16) : F::nearest(own);
  }
}

template <class Real>
ZK_INLINE void store_general(const Strided& entry, int64_t at, Real value, uint32_t random16, bool stochastic) {
  if (entry.out_dtype == ZK_BF16)
    store_as<BF16>(entry.dst, at, value, random16, stochastic);
  else if (entry.out_dtype == ZK_F16)
    store_as<F16>(entry.dst, at, value, random16, stochastic);
  else if (entry.out_dtype == ZK_F32)
    store_as<F32>(entry.dst, at, value, random16, stochastic);
  else
    store_as<F64>(entry.dst, at, value, random16, stochastic);
}

// Elements 2j and 2j + 1 of a unit.
template <class F>
ZK_INLINE void general_pair(const Header& p, const Strided& entry, uint64_t unit, uint32_t j) {
  using bits = typename F::bits;
  using real = typename F::real;
  const bits* src = reinterpret_cast<const bits*>(entry.src);
  const uint64_t at = unit * kUnit + 2 * j, block = entry.block + unit;  // at counts from the unit's start
  const bool inside[2] = {at >= entry.head && at < entry.end, at + 1 >= entry.head && at + 1 < entry.end};
  int64_t from[2] = {}, to[2] = {};
  real acc[2];
  ZK_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    if (inside[i]) locate(entry, at + i - entry.head, from[i], to[i]);
    acc[i] = static_cast<real>(p.decay) * F::value(inside[i] && src ? src[from[i]] : bits(0));
  }
  const bool rademacher_move = p.distribution == ZK_RADEMACHER;
  ZK_NO_UNROLL
  for (int32_t k = 0; k < p.count; ++k) {
    const Term term = p.more ? p.more[k] : p.terms[k];
    const uint64_t seed = static_cast<uint64_t>(term.key1) << 32 | term.key0;
    uint32_t words[4];
    float z[2];
    philox_block(seed, rademacher_move ? block >> 4 : block, entry.stream, p.lane, words);
    if (rademacher_move) {
      const uint32_t element = static_cast<uint32_t>(block) * kUnit + 2 * j;
      const uint32_t word = word_of(words, (element >> 5) & 3) >> (element & 31);
      z[0] = word & 1 ? -1.0f : 1.0f;
      z[1] = word & 2 ? -1.0f : 1.0f;
    } else {
      normal_pair(word_of(words, j), word_of(words, j ^ 1), z[0], z[1]);
    }
    acc[0] = fused(term.scale, z[0], acc[0]);
    acc[1] = fused(term.scale, z[1], acc[1]);
  }
  uint32_t random = 0;
  const bool sixteen = entry.out_dtype == ZK_BF16 || entry.out_dtype == ZK_F16;
  const bool stochastic = sixteen && p.rounding == ZK_STOCHASTIC;
  if (stochastic) {
    uint32_t words[4];
    draw_rounding(p, block, entry.stream, words);
    random = word_of(words, j);
  }
  ZK_UNROLL
  for (uint32_t i = 0; i < 2; ++i)
    if (inside[i]) store_general(entry, to[i], acc[i], (random >> (16 * i)) & 0xffffu, stochastic);
}

template <class P>
ZK_INLINE void run_general(const P& p, uint32_t block, uint32_t blocks, uint32_t thread) {
  ZK_NO_UNROLL
  for (uint32_t chunk = block; chunk < p.chunks; chunk += blocks) {
    const Strided& entry = p.entries[find_entry(p.entries, p.tensors, chunk)];
    const uint32_t chunk_units = p.tiles * kThreads;
    const uint64_t first = static_cast<uint64_t>(chunk - entry.first_chunk) * chunk_units;
    const uint64_t left = units_of(entry) - first;
    const uint32_t pairs = 4 * (left < chunk_units ? static_cast<uint32_t>(left) : chunk_units);
    ZK_NO_UNROLL
    for (uint32_t i = thread; i < pairs; i += kThreads) {
      const uint64_t unit = first + i / 4;
      if (entry.dtype == ZK_BF16)
        general_pair<BF16>(p, entry, unit, i % 4);
      else if (entry.dtype == ZK_F16)
        general_pair<F16>(p, entry, unit, i % 4);
      else if (entry.dtype == ZK_F32)
        general_pair<F32>(p, entry, unit, i % 4);
      else
        general_pair<F64>(p, entry, unit, i % 4);
    }
  }
}

}  // namespace zk::cuda
