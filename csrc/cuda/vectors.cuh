// Vectors of V elements of a format F (formats.cuh) at an address that they divide: up to 16 bytes a load or
// store. On the host an address that does not divide traps.
#pragma once

#include "formats.cuh"

namespace zk::cuda {

template <int N>
struct alignas(N) Bytes {
  uint32_t w[N / 4];
};
template <class F, int V>
using Raw =
    std::conditional_t<V == 1, typename F::bits, Bytes<V == 1 ? 4 : V * static_cast<int>(sizeof(typename F::bits))>>;

template <class F, int V>
ZK_INLINE Raw<F, V> load_raw(const char* p) {
#ifndef __CUDA_ARCH__
  if (reinterpret_cast<uintptr_t>(p) % sizeof(Raw<F, V>) != 0) __builtin_trap();
#endif
  return *reinterpret_cast<const Raw<F, V>*>(p);
}

template <class F, int V>
ZK_INLINE void widen(const Raw<F, V>& raw, float (&v)[V]) {
  if constexpr (V == 1) {
    v[0] = F::value(raw);
  } else {
    ZK_UNROLL
    for (int i = 0; i < V; ++i) {
      if constexpr (sizeof(typename F::bits) == 4)
        v[i] = bits_float(raw.w[i]);
      else if (i % 2 == 0)
        F::value2(raw.w[i / 2], v[i], v[i + 1]);
    }
  }
}

template <class F, int V>
ZK_INLINE void store_as(char* p, const float (&v)[V]) {
  if constexpr (V * sizeof(typename F::bits) > 16) {  // fp32 y of a 16-bit x: two vectors
    constexpr int kHalf = V / 2;
    float half[kHalf];
    ZK_UNROLL
    for (int h = 0; h < 2; ++h) {
      ZK_UNROLL
      for (int i = 0; i < kHalf; ++i) half[i] = v[h * kHalf + i];
      store_as<F, kHalf>(p + 16 * h, half);
    }
  } else if constexpr (V == 1) {
    *reinterpret_cast<typename F::bits*>(p) = F::nearest(v[0]);
  } else {
    Raw<F, V> raw;
    ZK_UNROLL
    for (int i = 0; i < V; ++i) {
      if constexpr (sizeof(typename F::bits) == 4)
        raw.w[i] = float_bits(v[i]);
      else if (i % 2 == 0)
        raw.w[i / 2] = F::nearest2(v[i], v[i + 1]);
    }
#ifndef __CUDA_ARCH__
    if (reinterpret_cast<uintptr_t>(p) % sizeof raw != 0) __builtin_trap();
#endif
    *reinterpret_cast<Raw<F, V>*>(p) = raw;
  }
}

template <int V>
ZK_INLINE void load_floats(const float* p, float (&v)[V]) {
  ZK_UNROLL
  for (int i = 0; i < V; i += V < 4 ? V : 4) {
    float part[V < 4 ? V : 4];
    widen < F32, V<4 ? V : 4>(load_raw < F32, V<4 ? V : 4>(reinterpret_cast<const char*>(p + i)), part);
    ZK_UNROLL
    for (int j = 0; j < (V < 4 ? V : 4); ++j) v[i + j] = part[j];
  }
}

}  // namespace zk::cuda
