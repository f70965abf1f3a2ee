// AVX-512 F + BW + DQ + VL: 16 lanes. The interface is explained in vec_portable.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../core/perturb.h"

namespace zk {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kGroups = 4;
  using F = __m512;
  using W = __m512i;
  using Wide = __m512i;
  static constexpr int kXor3 = 0x96, kAndOr = 0xEA, kXorAnd = 0x78;  // vpternlog truth tables

  // --- words
  ZK_INLINE W word(uint32_t v) { return _mm512_set1_epi32(static_cast<int>(v)); }
  ZK_INLINE W as_words(F v) { return _mm512_castps_si512(v); }
  ZK_INLINE F as_floats(W v) { return _mm512_castsi512_ps(v); }
  ZK_INLINE W and_or(W a, uint32_t mask, uint32_t set) {
    return _mm512_ternarylogic_epi32(a, word(mask), word(set), kAndOr);
  }
  template <int N>
  ZK_INLINE W shift_right(W a) {
    return _mm512_srli_epi32(a, N);
  }
  template <int N>
  ZK_INLINE W shift_left(W a) {
    return _mm512_slli_epi32(a, N);
  }
  ZK_INLINE W shift_left_each(W a, W n) { return _mm512_sllv_epi32(a, n); }
  ZK_INLINE W add(W a, W b) { return _mm512_add_epi32(a, b); }
  ZK_INLINE W and_(W a, W b) { return _mm512_and_si512(a, b); }
  ZK_INLINE W or_(W a, W b) { return _mm512_or_si512(a, b); }
  ZK_INLINE W xor_masked(W a, W b, uint32_t mask) { return _mm512_ternarylogic_epi32(a, b, word(mask), kXorAnd); }
  ZK_INLINE W iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  ZK_INLINE W borrow_low_half(W high, W w) {  // a byte shuffle that leaves the high halves as they are
    const W from = _mm512_broadcast_i32x4(_mm_setr_epi8(4, 5, 0, 0, 0, 1, 0, 0, 12, 13, 0, 0, 8, 9, 0, 0));
    return _mm512_mask_shuffle_epi8(high, 0x3333333333333333u, w, from);
  }
  ZK_INLINE W high_halves(W even, W odd) {
    return _mm512_mask_blend_epi16(0xAAAAAAAAu, _mm512_srli_epi32(even, 16), odd);
  }
  // three instructions by a mask in place of four: 4 % of bf16
  ZK_INLINE W round_bias(W u) {
    const W up = _mm512_add_epi32(u, word(0x7fffu));
    return _mm512_mask_add_epi32(up, _mm512_test_epi32_mask(u, word(0x10000u)), up, word(1u));
  }

  // --- Philox
  ZK_INLINE Wide wide(uint64_t v) { return _mm512_set1_epi64(static_cast<long long>(v)); }
  ZK_INLINE Wide wide_iota(uint64_t first) {
    return _mm512_add_epi64(wide(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  }
  ZK_INLINE Wide add_wide(Wide a, uint64_t b) { return _mm512_add_epi64(a, wide(b)); }
  ZK_INLINE Wide multiply(Wide a, uint32_t m) { return _mm512_mul_epu32(a, wide(m)); }
  ZK_INLINE Wide high(Wide product) { return _mm512_srli_epi64(product, 32); }
  ZK_INLINE Wide xor_wide(Wide a, Wide b) { return _mm512_xor_si512(a, b); }
  using Key = uint32_t;
  ZK_INLINE Key key(uint32_t k) { return k; }
  ZK_INLINE Wide xor3(Wide a, Wide b, uint32_t key) { return _mm512_ternarylogic_epi32(a, b, word(key), kXor3); }
  ZK_INLINE void to_words(Wide c0, Wide c1, Wide c2, Wide c3, W& first, W& second) {
    const W w01 = _mm512_mask_shuffle_epi32(c0, 0xAAAA, c1, static_cast<_MM_PERM_ENUM>(0xA0));
    const W w23 = _mm512_mask_shuffle_epi32(c2, 0xAAAA, c3, static_cast<_MM_PERM_ENUM>(0xA0));
    first = _mm512_permutex2var_epi64(w01, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), w23);
    second = _mm512_permutex2var_epi64(w01, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), w23);
  }

  // --- floats
  ZK_INLINE F broadcast(float v) { return _mm512_set1_ps(v); }
  ZK_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  ZK_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  ZK_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  ZK_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  ZK_INLINE F sqrt(F a) { return _mm512_sqrt_ps(a); }
  using P = F;
  ZK_INLINE P constant(float v) { return broadcast(v); }
  ZK_INLINE P widen(F v) { return v; }
  ZK_INLINE P step(P a, P b, P c) { return fma(a, b, c); }
  ZK_INLINE F last_step(P a, P b, P c) { return fma(a, b, c); }
  ZK_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  ZK_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  ZK_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  template <int Bit>
  ZK_INLINE F select(W w, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(w, word(1u << Bit)), no, yes);
  }
  ZK_INLINE F select_below(F a, F bound, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, bound, _CMP_LT_OQ), no, yes);
  }
  ZK_INLINE F to_float(W v) { return _mm512_cvtepi32_ps(v); }
  ZK_INLINE F truncate(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
  ZK_INLINE F exponent_term(F f) { return sub(broadcast(22.0f), _mm512_getexp_ps(f)); }
  ZK_INLINE void interleave(F a, F b, F& low, F& high) {
    low = _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
    high =
        _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
  }

  // --- memory
  ZK_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  ZK_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  ZK_INLINE void stream(float* p, F v) { _mm512_stream_ps(p, v); }
  ZK_INLINE void end_stream() { _mm_sfence(); }
  ZK_INLINE F load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  ZK_INLINE void store_part(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  ZK_INLINE F load_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  ZK_INLINE void store_high_halves(uint16_t* p, W v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
  }
  ZK_INLINE F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  ZK_INLINE void store_half(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  ZK_INLINE W load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  ZK_INLINE void store_pairs(uint16_t* p, W v) { _mm512_storeu_si512(p, v); }

 private:
  ZK_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
};

}  // namespace
}  // namespace zk
