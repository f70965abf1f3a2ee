// Element formats: the bits of an element, its arithmetic type, rounding back; and eight of them as the
// vector that one thread loads and stores. Host and device agree bit for bit (NaN payloads apart: the
// device's conversions give one NaN).
#pragma once

#include <cstring>
#include <type_traits>

#include "../core/perturb.h"

#ifdef __CUDACC__
#define ZK_UNROLL _Pragma("unroll")
#define ZK_NO_UNROLL _Pragma("unroll 1")
#else
#define ZK_UNROLL
#define ZK_NO_UNROLL
#endif

namespace zk::cuda {

ZK_INLINE uint32_t word_of(const uint32_t words[4], uint32_t j) {  // words[j] without an array in memory
  const uint32_t low = j & 1 ? words[1] : words[0], high = j & 1 ? words[3] : words[2];
  return j & 2 ? high : low;
}

struct F32 {
  using bits = uint32_t;
  using real = float;
  static constexpr bool kRounds = false;  // whether the rounding mode matters
  ZK_INLINE float value(uint32_t b) { return bits_float(b); }
  ZK_INLINE uint32_t nearest(float f) { return float_bits(f); }
  ZK_INLINE uint32_t stochastic(float f, uint32_t) { return float_bits(f); }
};

struct BF16 {
  using bits = uint16_t;
  using real = float;
  static constexpr bool kRounds = true;
  ZK_INLINE float value(uint16_t b) { return bf16_to_float(b); }
  ZK_INLINE uint16_t nearest(float f) {
#ifdef __CUDA_ARCH__
    uint16_t b;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b) : "f"(f));
    return b;
#else
    return bf16_nearest(f);
#endif
  }
  ZK_INLINE uint16_t stochastic(float f, uint32_t random16) { return bf16_stochastic(f, random16); }
  // Two elements, the first in the low half.
  ZK_INLINE void value2(uint32_t pair, float& low, float& high) {
    low = bits_float(pair << 16);
    high = bits_float(pair & 0xffff0000u);
  }
  ZK_INLINE uint32_t nearest2(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return nearest(low) | static_cast<uint32_t>(nearest(high)) << 16;
#endif
  }
};

struct F16 {
  using bits = uint16_t;
  using real = float;
  static constexpr bool kRounds = true;
  ZK_INLINE float value(uint16_t b) {
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(b));
    return f;
#else
    return half_to_float(b);
#endif
  }
  ZK_INLINE uint16_t nearest(float f) {
#ifdef __CUDA_ARCH__
    uint16_t b;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(b) : "f"(f));
    return b;
#else
    return half_nearest(f);
#endif
  }
  ZK_INLINE uint16_t stochastic(float f, uint32_t random16) { return nearest(fp16_stochastic_grid(f, random16)); }
  ZK_INLINE void value2(uint32_t pair, float& low, float& high) {
    low = value(static_cast<uint16_t>(pair));
    high = value(static_cast<uint16_t>(pair >> 16));
  }
  ZK_INLINE uint32_t nearest2(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return nearest(low) | static_cast<uint32_t>(nearest(high)) << 16;
#endif
  }
};

struct F64 {
  using bits = uint64_t;
  using real = double;
  static constexpr bool kRounds = false;
  ZK_INLINE double value(uint64_t b) {
    double f;
    std::memcpy(&f, &b, 8);
    return f;
  }
  ZK_INLINE uint64_t nearest(double f) {
    uint64_t b;
    std::memcpy(&b, &f, 8);
    return b;
  }
  ZK_INLINE uint64_t stochastic(double f, uint32_t) { return nearest(f); }
};

ZK_INLINE uint32_t upper_halves(uint32_t low, uint32_t high) {
#ifdef __CUDA_ARCH__
  return __byte_perm(low, high, 0x7632);
#else
  return low >> 16 | (high & 0xffff0000u);
#endif
}

ZK_INLINE float fused(float a, float b, float c) { return fma_rn(a, b, c); }
// The product of two floats is exact in double: contracted or not, one rounding.
ZK_INLINE double fused(float a, float b, double c) { return static_cast<double>(a) * static_cast<double>(b) + c; }

// ---- eight elements at a 16-byte aligned address

struct alignas(16) Quad {
  uint32_t w[4];
};

template <class F>
struct Vector {
  Quad q[sizeof(typename F::bits) / 2];
};

// On the host, where a test runs this code, what a device would fault on.
ZK_INLINE void trap_misaligned(const char* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) __builtin_trap();
}

ZK_INLINE Quad load_quad(const char* p) {
#ifdef __CUDA_ARCH__
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  return Quad{{v.x, v.y, v.z, v.w}};
#else
  trap_misaligned(p);
  Quad q;
  std::memcpy(&q, p, 16);
  return q;
#endif
}

ZK_INLINE void store_quad(char* p, const Quad& q) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<uint4*>(p) = make_uint4(q.w[0], q.w[1], q.w[2], q.w[3]);
#else
  trap_misaligned(p);
  std::memcpy(p, &q, 16);
#endif
}

template <class F>
ZK_INLINE Vector<F> load_vector(const char* p) {
  Vector<F> v;
  ZK_UNROLL
  for (unsigned i = 0; i < sizeof(v) / 16; ++i) v.q[i] = load_quad(p + 16 * i);
  return v;
}

template <class F>
ZK_INLINE void store_vector(char* p, const Vector<F>& v) {
  ZK_UNROLL
  for (unsigned i = 0; i < sizeof(v) / 16; ++i) store_quad(p + 16 * i, v.q[i]);
}

template <class F>
ZK_INLINE void unpack(const Vector<F>& v, float acc[8]) {
  ZK_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(typename F::bits) == 4) {
      acc[2 * i] = bits_float(v.q[i / 2].w[2 * (i % 2)]);
      acc[2 * i + 1] = bits_float(v.q[i / 2].w[2 * (i % 2) + 1]);
    } else {
      F::value2(v.q[0].w[i], acc[2 * i], acc[2 * i + 1]);
    }
  }
}

template <class F>
ZK_INLINE Vector<F> pack_nearest(const float acc[8]) {
  Vector<F> v;
  ZK_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(typename F::bits) == 4) {
      v.q[i / 2].w[2 * (i % 2)] = float_bits(acc[2 * i]);
      v.q[i / 2].w[2 * (i % 2) + 1] = float_bits(acc[2 * i + 1]);
    } else {
      v.q[0].w[i] = F::nearest2(acc[2 * i], acc[2 * i + 1]);
    }
  }
  return v;
}

// 16-bit formats; word i of `random` holds the bits of elements 2i (low half) and 2i + 1. For bf16 the
// test of infinities and NaN is done once for the eight: 0 x is NaN for them, +-0 otherwise.
template <class F>
ZK_INLINE Vector<F> pack_stochastic(const float acc[8], const uint32_t random[4]) {
  Vector<F> v;
  if constexpr (std::is_same_v<F, BF16>) {
    float test = 0.0f;
    ZK_UNROLL
    for (int j = 0; j < 8; ++j) test = fma_rn(acc[j], 0.0f, test);
    if (test == 0.0f) {
      ZK_UNROLL
      for (int i = 0; i < 4; ++i)
        v.q[0].w[i] = upper_halves(float_bits(acc[2 * i]) + (random[i] & 0xffffu),
                                   float_bits(acc[2 * i + 1]) + (random[i] >> 16));
      return v;
    }
  }
  ZK_UNROLL
  for (int i = 0; i < 4; ++i)
    v.q[0].w[i] = F::stochastic(acc[2 * i], random[i] & 0xffffu) |
                  static_cast<uint32_t>(F::stochastic(acc[2 * i + 1], random[i] >> 16)) << 16;
  return v;
}

}  // namespace zk::cuda
