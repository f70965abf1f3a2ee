// AVX2 + FMA + F16C: 8 lanes. The interface is explained in vec_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../core/perturb.h"

namespace zk {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kGroups = 2;
  using F = __m256;
  using W = __m256i;
  using Wide = __m256i;

  // --- words
  ZK_INLINE W word(uint32_t v) { return _mm256_set1_epi32(static_cast<int>(v)); }
  ZK_INLINE W as_words(F v) { return _mm256_castps_si256(v); }
  ZK_INLINE F as_floats(W v) { return _mm256_castsi256_ps(v); }
  ZK_INLINE W and_or(W a, uint32_t mask, uint32_t set) {
    return _mm256_or_si256(_mm256_and_si256(a, word(mask)), word(set));
  }
  template <int N>
  ZK_INLINE W shift_right(W a) {
    return _mm256_srli_epi32(a, N);
  }
  template <int N>
  ZK_INLINE W shift_left(W a) {
    return _mm256_slli_epi32(a, N);
  }
  ZK_INLINE W shift_left_each(W a, W n) { return _mm256_sllv_epi32(a, n); }
  ZK_INLINE W add(W a, W b) { return _mm256_add_epi32(a, b); }
  ZK_INLINE W and_(W a, W b) { return _mm256_and_si256(a, b); }
  ZK_INLINE W or_(W a, W b) { return _mm256_or_si256(a, b); }
  ZK_INLINE W xor_masked(W a, W b, uint32_t mask) { return _mm256_xor_si256(a, _mm256_and_si256(b, word(mask))); }
  ZK_INLINE W iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  ZK_INLINE W borrow_low_half(W high, W w) { return _mm256_blend_epi16(high, _mm256_shuffle_epi32(w, 0xB1), 0x55); }
  ZK_INLINE W high_halves(W even, W odd) { return _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA); }
  ZK_INLINE W round_bias(W u) { return add(add(u, word(0x7fffu)), and_(shift_right<16>(u), word(1u))); }

  // --- Philox
  ZK_INLINE Wide wide(uint64_t v) { return _mm256_set1_epi64x(static_cast<long long>(v)); }
  ZK_INLINE Wide wide_iota(uint64_t first) { return _mm256_add_epi64(wide(first), _mm256_setr_epi64x(0, 1, 2, 3)); }
  ZK_INLINE Wide add_wide(Wide a, uint64_t b) { return _mm256_add_epi64(a, wide(b)); }
  ZK_INLINE Wide multiply(Wide a, uint32_t m) { return _mm256_mul_epu32(a, wide(m)); }
  ZK_INLINE Wide high(Wide product) { return _mm256_srli_epi64(product, 32); }
  ZK_INLINE Wide xor_wide(Wide a, Wide b) { return _mm256_xor_si256(a, b); }
  using Key = uint32_t;
  ZK_INLINE Key key(uint32_t k) { return k; }
  ZK_INLINE Wide xor3(Wide a, Wide b, uint32_t key) { return _mm256_xor_si256(_mm256_xor_si256(a, b), word(key)); }
  ZK_INLINE void to_words(Wide c0, Wide c1, Wide c2, Wide c3, W& first, W& second) {
    const W w01 = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);
    const W w23 = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);
    const W low = _mm256_unpacklo_epi64(w01, w23), up = _mm256_unpackhi_epi64(w01, w23);
    first = _mm256_permute2x128_si256(low, up, 0x20);
    second = _mm256_permute2x128_si256(low, up, 0x31);
  }

  // --- floats
  ZK_INLINE F broadcast(float v) { return _mm256_set1_ps(v); }
  ZK_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  ZK_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  ZK_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  ZK_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  ZK_INLINE F sqrt(F a) { return _mm256_sqrt_ps(a); }
  using P = F;
  ZK_INLINE P constant(float v) { return broadcast(v); }
  ZK_INLINE P widen(F v) { return v; }
  ZK_INLINE P step(P a, P b, P c) { return fma(a, b, c); }
  ZK_INLINE F last_step(P a, P b, P c) { return fma(a, b, c); }
  ZK_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  ZK_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  ZK_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  template <int Bit>
  ZK_INLINE F select(W w, F yes, F no) {
    return _mm256_blendv_ps(no, yes, as_floats(_mm256_slli_epi32(w, 31 - Bit)));
  }
  ZK_INLINE F select_below(F a, F bound, F yes, F no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, bound, _CMP_LT_OQ));
  }
  ZK_INLINE F to_float(W v) { return _mm256_cvtepi32_ps(v); }
  ZK_INLINE F truncate(F v) { return _mm256_round_ps(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
  ZK_INLINE F exponent_term(F f) {
    return sub(broadcast(405.0f), as_floats(and_or(shift_right<8>(as_words(f)), 0x007f8000u, 0x43800000u)));
  }
  ZK_INLINE void interleave(F a, F b, F& low, F& high) {
    const F u = _mm256_unpacklo_ps(a, b), v = _mm256_unpackhi_ps(a, b);
    low = _mm256_permute2f128_ps(u, v, 0x20);
    high = _mm256_permute2f128_ps(u, v, 0x31);
  }

  // --- memory
  ZK_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  ZK_INLINE void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  ZK_INLINE void stream(float* p, F v) { _mm256_stream_ps(p, v); }
  ZK_INLINE void end_stream() { _mm_sfence(); }
  ZK_INLINE F load_part(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  ZK_INLINE void store_part(float* p, F v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  ZK_INLINE F load_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  ZK_INLINE void store_high_halves(uint16_t* p, W v) {
    const W high = _mm256_srli_epi32(v, 16);
    const W packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  ZK_INLINE F load_half(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  ZK_INLINE void store_half(uint16_t* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  ZK_INLINE W load_pairs(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  ZK_INLINE void store_pairs(uint16_t* p, W v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

 private:
  ZK_INLINE W first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
}  // namespace zk
