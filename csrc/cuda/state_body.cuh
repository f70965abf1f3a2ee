// What one thread does for tensors with state: loads, the rule, stores. Host and device.
//
// Dense tensors: a unit of 8 elements, whole and aligned as vectors, at a tensor's ends one by one.
// Strided and fp64 tensors: two elements, every choice at run time. A Rule has
//   Real                       what state is made of: uint32_t (the bits of a float) or uint8_t
//   apply<F, N>(at, entry, in, state, out)    N elements: their bits, those of their state, the new bits
#pragma once

#include <cstring>

#include "formats.cuh"
#include "state_list.cuh"

namespace zk::cuda {

// ---- memory

// Eight values of 1, 2 or 4 bytes from an address aligned to 16 bytes (8 for bytes).
template <class T>
ZK_INLINE void load_eight(const char* p, T x[8]) {
  if constexpr (sizeof(T) == 1) {
#ifdef __CUDA_ARCH__
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    const uint32_t w[2] = {v.x, v.y};
#else
    uint32_t w[2];
    std::memcpy(w, p, 8);
#endif
    ZK_UNROLL
    for (int i = 0; i < 8; ++i) x[i] = static_cast<T>(w[i / 4] >> (8 * (i % 4)));
  } else {
    ZK_UNROLL
    for (unsigned k = 0; k < sizeof(T) / 2; ++k) {
      const Quad q = load_quad(p + 16 * k);
      ZK_UNROLL
      for (int i = 0; i < 16 / static_cast<int>(sizeof(T)); ++i) {
        if constexpr (sizeof(T) == 4)
          x[4 * k + i] = q.w[i];
        else
          x[8 * k + i] = static_cast<T>(q.w[i / 2] >> (16 * (i % 2)));
      }
    }
  }
}

template <class T>
ZK_INLINE void store_eight(char* p, const T x[8]) {
  ZK_UNROLL
  for (unsigned k = 0; k < sizeof(T) / 2; ++k) {
    Quad q;
    ZK_UNROLL
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4)
        q.w[i] = x[4 * k + i];
      else
        q.w[i] = x[2 * i] | static_cast<uint32_t>(x[2 * i + 1]) << 16;
    }
    store_quad(p + 16 * k, q);
  }
}

// ---- the stream

// Where N elements are drawn: a block's 8, or elements 2 pair and 2 pair + 1 of it.
struct Place {
  uint64_t block;
  uint32_t stream;
  uint32_t pair;
};

template <int N>
ZK_INLINE void draw_normals(const Place& at, uint64_t seed, uint32_t lane, float z[N]) {
  uint32_t words[4];
  philox_block(seed, at.block, at.stream, lane, words);
  if constexpr (N == 8)
    normal_block(words, z);
  else
    normal_pair(word_of(words, at.pair), word_of(words, at.pair ^ 1), z[0], z[1]);
}

template <int N>
ZK_INLINE void draw_signs(const Place& at, uint64_t seed, float z[N]) {
  uint32_t words[4];
  philox_block(seed, at.block >> 4, at.stream, kLaneZ, words);
  const uint32_t first = (static_cast<uint32_t>(at.block) & 15) * kUnit + (N == 8 ? 0 : 2 * at.pair);
  const uint32_t signs = word_of(words, first >> 5) >> (first & 31);
  ZK_UNROLL
  for (int j = 0; j < N; ++j) z[j] = bits_float(0x3f800000u | ((signs << (31 - j)) & 0x80000000u));
}

// The new bits: to nearest, or with the random bits of lane 2 under `key`.
template <class F, int N>
ZK_INLINE void round_values(const Place& at, uint64_t key, int rounding, const typename F::real value[N],
                            typename F::bits out[N]) {
  if (F::kRounds && rounding == ZK_STOCHASTIC) {
    uint32_t words[4];
    philox_block(key, at.block, at.stream, kLaneRounding, words);
    ZK_UNROLL
    for (int j = 0; j < N; ++j) {
      const uint32_t word = N == 8 ? words[j / 2] : word_of(words, at.pair);
      out[j] = F::stochastic(value[j], (word >> (16 * (j % 2))) & 0xffffu);
    }
  } else {
    ZK_UNROLL
    for (int j = 0; j < N; ++j) out[j] = F::nearest(value[j]);
  }
}

ZK_INLINE uint64_t seed_of(const Term& term) { return static_cast<uint64_t>(term.key1) << 32 | term.key0; }

// ---- dense tensors

template <class F, class P>
ZK_INLINE void dense_unit(const P& p, const StateDense& entry, uint64_t unit) {
  using Rule = decltype(p.rule);
  using bits = typename F::bits;
  using Real = typename Rule::Real;
  const uint64_t first = unit * kUnit;
  const bool whole = entry.vector && first >= entry.head && first + kUnit <= entry.end;
  bits in[8], out[8];
  Real state[kMaxStates][8] = {};
  if (whole) {
    load_eight<bits>(entry.src + first * sizeof(bits), in);
    ZK_UNROLL
    for (uint32_t s = 0; s < Rule::kStates; ++s)
      if (s < p.states) load_eight<Real>(entry.states[s] + first * sizeof(Real), state[s]);
  } else {
    ZK_UNROLL
    for (uint32_t j = 0; j < kUnit; ++j) {
      const bool inside = first + j >= entry.head && first + j < entry.end;
      in[j] = inside ? reinterpret_cast<const bits*>(entry.src)[first + j] : bits(0);
      ZK_UNROLL
      for (uint32_t s = 0; s < Rule::kStates; ++s)
        if (s < p.states && inside) state[s][j] = reinterpret_cast<const Real*>(entry.states[s])[first + j];
    }
  }
  p.rule.template apply<F, 8>(Place{entry.block + unit, entry.stream, 0}, entry, p.states, in, state, out);
  if (whole) {
    store_eight<bits>(entry.dst + first * sizeof(bits), out);
    if constexpr (sizeof(Real) == 4) {
      ZK_UNROLL
      for (uint32_t s = 0; s < Rule::kStates; ++s)
        if (s < p.states && p.rule.writes_state()) store_eight<Real>(entry.states[s] + first * sizeof(Real), state[s]);
    }
  } else {
    ZK_UNROLL
    for (uint32_t j = 0; j < kUnit; ++j) {
      if (first + j < entry.head || first + j >= entry.end) continue;
      reinterpret_cast<bits*>(entry.dst)[first + j] = out[j];
      ZK_UNROLL
      for (uint32_t s = 0; s < Rule::kStates; ++s)
        if (s < p.states && p.rule.writes_state()) reinterpret_cast<Real*>(entry.states[s])[first + j] = state[s][j];
    }
  }
}

template <class P>
ZK_INLINE void run_dense_states(const P& p, uint32_t block, uint32_t blocks, uint32_t thread) {
  ZK_NO_UNROLL
  for (uint32_t chunk = block; chunk < p.chunks; chunk += blocks) {
    const StateDense& entry = p.entries[find_entry(p.entries, p.tensors, chunk)];
    const uint32_t chunk_units = p.tiles * kThreads;
    const uint64_t first = static_cast<uint64_t>(chunk - entry.first_chunk) * chunk_units;
    const uint64_t left = units_of(entry) - first;
    const uint32_t count = left < chunk_units ? static_cast<uint32_t>(left) : chunk_units;
    ZK_NO_UNROLL
    for (uint32_t i = thread; i < count; i += kThreads) {
      if (entry.dtype == ZK_BF16)
        dense_unit<BF16>(p, entry, first + i);
      else if (entry.dtype == ZK_F16)
        dense_unit<F16>(p, entry, first + i);
      else
        dense_unit<F32>(p, entry, first + i);
    }
  }
}

// ---- any strides, any dtype

// Elements 2 pair and 2 pair + 1 of a unit.
template <class F, class P>
ZK_INLINE void general_state_pair(const P& p, const StateStrided& entry, uint64_t unit, uint32_t pair) {
  using Rule = decltype(p.rule);
  using bits = typename F::bits;
  using Real = typename Rule::Real;
  constexpr uint32_t kPlanes = 2 + Rule::kStates;
  const uint64_t at = unit * kUnit + 2 * pair;  // from the unit's start
  int64_t place[2][kPlanes] = {};
  bool inside[2];
  bits in[2] = {}, out[2];
  Real state[kMaxStates][2] = {};
  ZK_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    inside[i] = at + i >= entry.head && at + i < entry.end;
    if (!inside[i]) continue;
    uint64_t index = at + i - entry.head;
    ZK_NO_UNROLL
    for (int32_t d = entry.ndim - 1; d >= 0; --d) {
      const uint64_t size = static_cast<uint64_t>(entry.sizes[d]), next = index / size;
      const int64_t step = static_cast<int64_t>(index - next * size);
      ZK_UNROLL
      for (uint32_t k = 0; k < kPlanes; ++k) place[i][k] += step * entry.strides[k][d];
      index = next;
    }
    in[i] = reinterpret_cast<const bits*>(entry.src)[place[i][0]];
    ZK_UNROLL
    for (uint32_t s = 0; s < Rule::kStates; ++s)
      if (s < p.states) state[s][i] = reinterpret_cast<const Real*>(entry.states[s])[place[i][2 + s]];
  }
  p.rule.template apply<F, 2>(Place{entry.block + unit, entry.stream, pair}, entry, p.states, in, state, out);
  ZK_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    if (!inside[i]) continue;
    reinterpret_cast<bits*>(entry.dst)[place[i][1]] = out[i];
    ZK_UNROLL
    for (uint32_t s = 0; s < Rule::kStates; ++s)
      if (s < p.states && p.rule.writes_state())
        reinterpret_cast<Real*>(entry.states[s])[place[i][2 + s]] = state[s][i];
  }
}

template <class P>
ZK_INLINE void run_general_states(const P& p, uint32_t block, uint32_t blocks, uint32_t thread) {
  ZK_NO_UNROLL
  for (uint32_t chunk = block; chunk < p.chunks; chunk += blocks) {
    const StateStrided& entry = p.entries[find_entry(p.entries, p.tensors, chunk)];
    const uint32_t chunk_units = p.tiles * kThreads;
    const uint64_t first = static_cast<uint64_t>(chunk - entry.first_chunk) * chunk_units;
    const uint64_t left = units_of(entry) - first;
    const uint32_t pairs = 4 * (left < chunk_units ? static_cast<uint32_t>(left) : chunk_units);
    ZK_NO_UNROLL
    for (uint32_t i = thread; i < pairs; i += kThreads) {
      const uint64_t unit = first + i / 4;
      if (entry.dtype == ZK_BF16)
        general_state_pair<BF16>(p, entry, unit, i % 4);
      else if (entry.dtype == ZK_F16)
        general_state_pair<F16>(p, entry, unit, i % 4);
      else if (entry.dtype == ZK_F32)
        general_state_pair<F32>(p, entry, unit, i % 4);
      else
        general_state_pair<F64>(p, entry, unit, i % 4);
    }
  }
}

}  // namespace zk::cuda
