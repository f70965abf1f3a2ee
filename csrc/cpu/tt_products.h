// What tensor-train layers are made of: fp32 vectors of rows of any dtype, and products of small matrices.
#pragma once

#include "stream_body.h"
#include "tt_kernels.h"

#define ZK_ALWAYS inline __attribute__((always_inline))

namespace zk {
namespace {

ZK_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// fp32 vectors from and to memory of one dtype; the _part forms touch n < kLanes elements only.
template <class V, int Dtype>
struct Lane;

template <class V>
struct Lane<V, ZK_F32> {
  using T = float;
  using F = typename V::F;
  ZK_INLINE F load(const T* p) { return V::load(p); }
  ZK_INLINE F load_part(const T* p, int n) { return V::load_part(p, n); }
  ZK_INLINE void store(T* p, F v) { V::store(p, v); }
  ZK_INLINE void store_part(T* p, F v, int n) { V::store_part(p, v, n); }
};

template <class V, class Self>
struct Lane16 {
  using T = uint16_t;
  using F = typename V::F;
  ZK_INLINE F load_part(const T* p, int n) {
    T buffer[V::kLanes] = {};
    std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
    return Self::load(buffer);
  }
  ZK_INLINE void store_part(T* p, F v, int n) {
    T buffer[V::kLanes];
    Self::store(buffer, v);
    std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
  }
};

template <class V>
struct Lane<V, ZK_BF16> : Lane16<V, Lane<V, ZK_BF16>> {
  using F = typename V::F;
  ZK_INLINE F load(const uint16_t* p) { return V::load_bf16(p); }
  // to nearest even in integers: the conversion instruction flushes subnormals
  ZK_INLINE void store(uint16_t* p, F v) {
    const auto u = V::as_words(v);
    const auto odd = V::and_(V::template shift_right<16>(u), V::word(1u));
    V::store_high_halves(p, V::add(u, V::add(odd, V::word(0x7fffu))));
  }
};

template <class V>
struct Lane<V, ZK_F16> : Lane16<V, Lane<V, ZK_F16>> {
  using F = typename V::F;
  ZK_INLINE F load(const uint16_t* p) { return V::load_half(p); }
  ZK_INLINE void store(uint16_t* p, F v) { V::store_half(p, v); }
};

template <class V, int Dtype, bool Part>
ZK_INLINE typename V::F load(const typename Lane<V, Dtype>::T* p, int part) {
  if constexpr (Part)
    return Lane<V, Dtype>::load_part(p, part);
  else
    return Lane<V, Dtype>::load(p);
}

template <class V, int Dtype, bool Part>
ZK_INLINE void store(typename Lane<V, Dtype>::T* p, typename V::F v, int part) {
  if constexpr (Part)
    Lane<V, Dtype>::store_part(p, v, part);
  else
    Lane<V, Dtype>::store(p, v);
}

// --- matrix products: T rows by Q vectors of columns in registers

constexpr int kRowsAtOnce = 4;

// `end` starts a sum (zero, or the bias), turns it into a value of the result (adds the residual) and stores
// the value. All values are computed before the first is stored: x and y, and rows of 16 KiB, lie a multiple
// of 4 KiB apart, and a load waits for an older store whose address has the same low 12 bits. This order is
// 10 % faster for an adapter at 128 rows of 4096 into a fresh y, rank 5, and 3 % elsewhere (AVX-512 Xeon VM,
// Nov 2026).
template <class V, int T, int Q, bool Part, class End>
ZK_INLINE void block(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, const End& end, int row,
                     int64_t column, int part) {
  using F = typename V::F;
  F sum[T][Q];
  ZK_UNROLL
  for (int q = 0; q < Q; ++q) {
    const F first = end.template begin<Part>(column + q * V::kLanes, part);
    ZK_UNROLL
    for (int t = 0; t < T; ++t) sum[t][q] = first;
  }
  for (int64_t d = 0; d < k; ++d) {
    F v[Q];
    ZK_UNROLL
    for (int q = 0; q < Q; ++q) v[q] = load<V, ZK_F32, Part>(b + d * ldb + q * V::kLanes, part);
    ZK_UNROLL
    for (int t = 0; t < T; ++t) {
      const F s = V::broadcast(a[t * lda + d]);
      ZK_UNROLL
      for (int q = 0; q < Q; ++q) sum[t][q] = V::fma(s, v[q], sum[t][q]);
    }
  }
  ZK_UNROLL
  for (int t = 0; t < T; ++t) {
    ZK_UNROLL
    for (int q = 0; q < Q; ++q) {
      sum[t][q] = end.template value<Part>(row + t, column + q * V::kLanes, sum[t][q], part);
    }
  }
  ZK_UNROLL
  for (int t = 0; t < T; ++t) {
    ZK_UNROLL
    for (int q = 0; q < Q; ++q) end.template put<Part>(row + t, column + q * V::kLanes, sum[t][q], part);
  }
}

template <class V, int T, class End>
ZK_INLINE void columns(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, int64_t n, const End& end,
                       int row, int64_t column) {
  constexpr int L = V::kLanes, Q = L == 16 ? 4 : 2;
  int64_t c = 0;
  for (; c + Q * L <= n; c += Q * L) block<V, T, Q, false>(a, lda, b + c, ldb, k, end, row, column + c, 0);
  for (; c + L <= n; c += L) block<V, T, 1, false>(a, lda, b + c, ldb, k, end, row, column + c, 0);
  if (c < n) block<V, T, 1, true>(a, lda, b + c, ldb, k, end, row, column + c, static_cast<int>(n - c));
}

// Calls body(row, number of rows as a constant) for rows in fours, then two and one.
template <int N>
struct Rows {
  static constexpr int value = N;
};
template <class Body>
ZK_INLINE void in_blocks(int64_t rows, const Body& body) {
  int64_t r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) body(r, Rows<kRowsAtOnce>{});
  if (r + 2 <= rows) body(r, Rows<2>{}), r += 2;
  if (r < rows) body(r, Rows<1>{});
}

template <class V, bool Part>
ZK_INLINE typename V::F bias_or_zero(const float* bias, int64_t column, int part) {
  return bias ? load<V, ZK_F32, Part>(bias + column, part) : V::broadcast(0.0f);
}

template <class V, int Dtype>
struct Write {  // y = bias + sum
  typename Lane<V, Dtype>::T* y;
  int64_t stride;
  const float* bias;
  template <bool Part>
  ZK_ALWAYS typename V::F begin(int64_t column, int part) const {
    return bias_or_zero<V, Part>(bias, column, part);
  }
  template <bool Part>
  ZK_ALWAYS typename V::F value(int64_t, int64_t, typename V::F sum, int) const {
    return sum;
  }
  template <bool Part>
  ZK_ALWAYS void put(int64_t row, int64_t column, typename V::F v, int part) const {
    store<V, Dtype, Part>(y + row * stride + column, v, part);
  }
};

template <class V>
void multiply(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t k,
              int64_t n) {
  in_blocks(m, [&](int64_t r, auto count) __attribute__((always_inline)) {
    columns<V, decltype(count)::value>(a + r * lda, lda, b, ldb, k, n, Write<V, ZK_F32>{c + r * ldc, ldc, nullptr}, 0,
                                       0);
  });
}

// s [rows, r] = flat [rows, n] middle [n, r]: four interleaved partial sums, which hide the latency of
// the few columns that r is, added as (0 + 1) + (2 + 3).
template <class V, int T, bool Part>
ZK_INLINE void fold_block(const float* flat, int64_t stride, int64_t n, const float* middle, int64_t r, float* s,
                          int part) {
  using F = typename V::F;
  F sum[T][4];
  ZK_UNROLL
  for (int t = 0; t < T; ++t) {
    ZK_UNROLL
    for (int j = 0; j < 4; ++j) sum[t][j] = V::broadcast(0.0f);
  }
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    ZK_UNROLL
    for (int j = 0; j < 4; ++j) {
      const F v = load<V, ZK_F32, Part>(middle + (i + j) * r, part);
      ZK_UNROLL
      for (int t = 0; t < T; ++t) sum[t][j] = V::fma(V::broadcast(flat[t * stride + i + j]), v, sum[t][j]);
    }
  }
  ZK_UNROLL
  for (int j = 0; j < 3; ++j) {
    if (i + j < n) {
      const F v = load<V, ZK_F32, Part>(middle + (i + j) * r, part);
      ZK_UNROLL
      for (int t = 0; t < T; ++t) sum[t][j] = V::fma(V::broadcast(flat[t * stride + i + j]), v, sum[t][j]);
    }
  }
  ZK_UNROLL
  for (int t = 0; t < T; ++t) {
    store<V, ZK_F32, Part>(s + t * r, V::add(V::add(sum[t][0], sum[t][1]), V::add(sum[t][2], sum[t][3])), part);
  }
}

template <class V>
void fold(const float* flat, int64_t stride, int64_t rows, int64_t n, const float* middle, int64_t r, float* s) {
  constexpr int T = V::kLanes == 16 ? 4 : 2;
  for (int64_t row = 0; row < rows;) {
    const bool many = row + T <= rows;
    const float* from = flat + row * stride;
    for (int64_t c = 0; c < r; c += V::kLanes) {
      const int part = static_cast<int>(r - c);
      float* to = s + row * r + c;
      if (part >= V::kLanes) {
        if (many)
          fold_block<V, T, false>(from, stride, n, middle + c, r, to, 0);
        else
          fold_block<V, 1, false>(from, stride, n, middle + c, r, to, 0);
      } else {
        if (many)
          fold_block<V, T, true>(from, stride, n, middle + c, r, to, part);
        else
          fold_block<V, 1, true>(from, stride, n, middle + c, r, to, part);
      }
    }
    row += many ? T : 1;
  }
}

}  // namespace
}  // namespace zk
