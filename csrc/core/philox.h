// Philox4x32-R: a counter-based generator, (counter, key) -> 128 bits, a pure function.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11. Host and device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define ZK_INLINE static __host__ __device__ __forceinline__
#define ZK_MEMBER __host__ __device__ __forceinline__
#else
// Always inlined: the same header is compiled for several instruction sets, and an out-of-line copy
// built for a newer one must never be the copy the linker keeps.
#define ZK_INLINE static inline __attribute__((always_inline))
#define ZK_MEMBER inline __attribute__((always_inline))
#endif

namespace zk {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u;
constexpr uint32_t kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

// 32 x 32 -> 64 bit product. On the device `(uint64_t)a * b` compiles to 76 instead of 49
// instructions per Philox block (sm_90, nvcc 13.0); the wide multiply keeps it at one IMAD.WIDE.
ZK_INLINE void mul_wide(uint32_t a, uint32_t b, uint32_t& low, uint32_t& high) {
#ifdef __CUDA_ARCH__
  asm("{.reg .u64 t; mul.wide.u32 t, %2, %3; mov.b64 {%0, %1}, t;}" : "=r"(low), "=r"(high) : "r"(a), "r"(b));
#else
  const uint64_t product = static_cast<uint64_t>(a) * b;
  low = static_cast<uint32_t>(product);
  high = static_cast<uint32_t>(product >> 32);
#endif
}

// Encrypts the counter in place: c[0..3] become the four output words.
template <int Rounds = kPhiloxRounds>
ZK_INLINE void philox(uint32_t c[4], uint32_t key0, uint32_t key1) {
#ifdef __CUDACC__
#pragma unroll
#endif
  for (int round = 0; round < Rounds; ++round) {
    uint32_t low0, high0, low1, high1;
    mul_wide(c[0], kPhiloxM0, low0, high0);
    mul_wide(c[2], kPhiloxM1, low1, high1);
    c[0] = high1 ^ c[1] ^ key0;
    c[2] = high0 ^ c[3] ^ key1;
    c[1] = low1;
    c[3] = low0;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
}

// The words of block `block` of (stream, lane) under `seed`: the counter layout of the zk-v1 stream.
template <int Rounds = kPhiloxRounds>
ZK_INLINE void philox_block(uint64_t seed, uint64_t block, uint32_t stream, uint32_t lane, uint32_t words[4]) {
  words[0] = static_cast<uint32_t>(block);
  words[1] = static_cast<uint32_t>(block >> 32);
  words[2] = stream;
  words[3] = lane;
  philox<Rounds>(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

}  // namespace zk
