// Tensor-train layers, generic over the instruction set V: the one body that <isa>.cpp compile.
//
// Rows go through a layer in tiles of 8: reduce() takes x to s [tile, r], spread() takes s to y. The
// lanes of a vector are columns of x or y and never meet, so every sum has one order whatever the
// vector's width, the tile and the number of threads: all instruction sets give the same bits.
//
// Per tile x is read twice by an adapter (from memory, then from L2: 8 rows of 4096 are 128 KiB) and
// y written once; left, middle, outer and right stay in L1 (11 KiB at hidden 4096, rank 5).
#pragma once

#include "tt_products.h"

namespace zk {
namespace {

// --- the input side

template <class V>
struct Registers {  // that project() sums in: what x, one coefficient and a margin leave
  static constexpr int kSums = V::kLanes == 16 ? 24 : 12;
  static constexpr int kRanks = V::kLanes == 16 ? 8 : 6;
};

// t[row, b, k] = sum_i left[i, b] x[row, i, k] for T rows and B ranks from `left` on. A vector that
// would reach beyond the row's end is loaded in part; elsewhere the lanes beyond K are computed and dropped.
template <class V, int Dtype, int T, int B>
void project_block(const TtShape& g, const float* left, const typename Lane<V, Dtype>::T* x, int64_t stride, float* t) {
  using F = typename V::F;
  constexpr int L = V::kLanes;
  const int64_t K = g.in_cols, t_stride = g.in_rank * K;
  for (int64_t k = 0; k < K; k += L) {
    F sum[T][B];
    ZK_UNROLL
    for (int r = 0; r < T; ++r) {
      ZK_UNROLL
      for (int b = 0; b < B; ++b) sum[r][b] = V::broadcast(0.0f);
    }
    auto add = [&](int64_t i, const F(&v)[T]) __attribute__((always_inline)) {
      ZK_UNROLL
      for (int b = 0; b < B; ++b) {
        const F l = V::broadcast(left[i * g.in_rank + b]);
        ZK_UNROLL
        for (int r = 0; r < T; ++r) sum[r][b] = V::fma(l, v[r], sum[r][b]);
      }
    };
    const int64_t room = g.in - k - L;
    const int64_t whole = room < 0 ? 0 : least(g.in_rows, room / K + 1);
    for (int64_t i = 0; i < whole; ++i) {
      F v[T];
      ZK_UNROLL
      for (int r = 0; r < T; ++r) v[r] = Lane<V, Dtype>::load(x + r * stride + i * K + k);
      add(i, v);
    }
    for (int64_t i = whole; i < g.in_rows; ++i) {
      F v[T];
      const int part = static_cast<int>(g.in - i * K - k);
      ZK_UNROLL
      for (int r = 0; r < T; ++r) v[r] = Lane<V, Dtype>::load_part(x + r * stride + i * K + k, part);
      add(i, v);
    }
    ZK_UNROLL
    for (int r = 0; r < T; ++r) {
      ZK_UNROLL
      for (int b = 0; b < B; ++b) {
        float* to = t + r * t_stride + b * K + k;
        if (K - k >= L)
          V::store(to, sum[r][b]);
        else
          V::store_part(to, sum[r][b], static_cast<int>(K - k));
      }
    }
  }
}

template <class V, int Dtype, int T>
void project_ranks(const TtShape& g, int64_t ranks, const float* left, const typename Lane<V, Dtype>::T* x,
                   int64_t stride, float* t) {
#define ZK_CASE(B)                                                           \
  case B:                                                                    \
    if constexpr (T * B <= Registers<V>::kSums && B <= Registers<V>::kRanks) \
      project_block<V, Dtype, T, B>(g, left, x, stride, t);                  \
    return;
  switch (ranks) { ZK_CASE(1) ZK_CASE(2) ZK_CASE(3) ZK_CASE(4) ZK_CASE(5) ZK_CASE(6) ZK_CASE(7) ZK_CASE(8) }
#undef ZK_CASE
}

template <class V, int Dtype>
void project(const TtShape& g, const float* left, const typename Lane<V, Dtype>::T* x, int64_t stride, int64_t rows,
             float* t) {
  constexpr int kRanks = Registers<V>::kRanks, kSums = Registers<V>::kSums;
  const int64_t blocks = (g.in_rank + kRanks - 1) / kRanks, t_stride = g.in_rank * g.in_cols;
  const int64_t most = (g.in_rank + blocks - 1) / blocks;
  const int at_once = 4 * most <= kSums ? 4 : 2 * most <= kSums ? 2 : 1;
  for (int64_t row = 0; row < rows;) {
    const int n = row + at_once <= rows ? at_once : row + 2 <= rows && at_once > 2 ? 2 : 1;
    for (int64_t b = 0; b < g.in_rank;) {
      const int64_t ranks = least(most, g.in_rank - b);
      const auto* from = x + row * stride;
      float* to = t + row * t_stride + b * g.in_cols;
      if (n == 4)
        project_ranks<V, Dtype, 4>(g, ranks, left + b, from, stride, to);
      else if (n == 2)
        project_ranks<V, Dtype, 2>(g, ranks, left + b, from, stride, to);
      else
        project_ranks<V, Dtype, 1>(g, ranks, left + b, from, stride, to);
      b += ranks;
    }
    row += n;
  }
}

template <class V, int Dtype>
void reduce(const TtReady& layer, const typename Lane<V, Dtype>::T* x, int64_t stride, int64_t rows, float* t,
            float* s) {
  const TtShape& g = layer.shape;
  const float* flat = t;
  int64_t flat_stride = g.in_rank * g.in_cols;
  if (layer.left) {
    project<V, Dtype>(g, layer.left, x, stride, rows, t);
  } else if constexpr (Dtype == ZK_F32) {
    flat = x, flat_stride = stride;
  } else {
    constexpr int L = V::kLanes;
    for (int64_t row = 0; row < rows; ++row) {
      int64_t c = 0;
      for (; c + L <= g.in; c += L) V::store(t + row * g.in + c, Lane<V, Dtype>::load(x + row * stride + c));
      const int part = static_cast<int>(g.in - c);
      if (part) V::store_part(t + row * g.in + c, Lane<V, Dtype>::load_part(x + row * stride + c, part), part);
    }
  }
  fold<V>(flat, flat_stride, rows, g.in_rank * g.in_cols, layer.middle, g.rank, s);
}

// --- the output side

template <class V, class End>
ZK_INLINE void spread(const TtReady& layer, const float* s, int64_t rows, float* u, const End& end) {
  const TtShape& g = layer.shape;
  const int64_t stride = g.out_rows * g.out_rank;
  const float* from = s;
  if (layer.outer) {
    multiply<V>(s, g.rank, layer.outer, stride, u, stride, rows, g.rank, stride);
    from = u;
  }
  in_blocks(rows, [&](int64_t r, auto count) __attribute__((always_inline)) {
    for (int64_t j = 0; j < g.out_rows; ++j) {
      columns<V, decltype(count)::value>(from + r * stride + j * g.out_rank, stride, layer.right, g.out_cols,
                                         g.out_rank, g.out_cols, end, static_cast<int>(r), j * g.out_cols);
    }
  });
}

template <class V, int XDtype, int YDtype, bool PastCaches>
struct AddScaled {  // y = x + scale * (bias + sum)
  const typename Lane<V, XDtype>::T* x;
  int64_t x_stride;
  const typename Lane<V, XDtype>::T* x_next;  // of the next tile, to prefetch; or null
  typename Lane<V, YDtype>::T* y;
  int64_t y_stride;
  const float* bias;
  float scale;
  template <bool Part>
  ZK_ALWAYS typename V::F begin(int64_t column, int part) const {
    return bias_or_zero<V, Part>(bias, column, part);
  }
  template <bool Part>
  ZK_ALWAYS typename V::F value(int64_t row, int64_t column, typename V::F sum, int part) const {
    if (x_next) __builtin_prefetch(x_next + row * x_stride + column, 0, 2);
    return V::fma(V::broadcast(scale), sum, load<V, XDtype, Part>(x + row * x_stride + column, part));
  }
  template <bool Part>
  ZK_ALWAYS void put(int64_t row, int64_t column, typename V::F v, int part) const {
    if constexpr (PastCaches && !Part)
      V::stream(y + row * y_stride + column, v);
    else
      store<V, YDtype, Part>(y + row * y_stride + column, v, part);
  }
};

// --- whole layers

template <class V, int XDtype, int YDtype>
void run_linear(const TtReady& layer, const TtRows& io, const TtWork& sizes, float* s) {
  float *t = s + padded(sizes.s), *u = t + padded(sizes.t);
  const auto* x = static_cast<const typename Lane<V, XDtype>::T*>(io.x);
  auto* y = static_cast<typename Lane<V, YDtype>::T*>(io.y);
  for (int64_t row = 0; row < io.rows; row += kTileRows) {
    const int64_t rows = least(kTileRows, io.rows - row);
    reduce<V, XDtype>(layer, x + row * io.x_stride, io.x_stride, rows, t, s);
    spread<V>(layer, s, rows, u, Write<V, YDtype>{y + row * io.y_stride, io.y_stride, layer.bias});
  }
}

template <class V>
void activate_all(float* h, int64_t n, int activation) {
  if (activation == ZK_IDENTITY) return;
  int64_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) V::store(h + i, activate<V>(V::load(h + i), activation));
  if (i < n)
    V::store_part(h + i, activate<V>(V::load_part(h + i, static_cast<int>(n - i)), activation),
                  static_cast<int>(n - i));
}

// In place, the next tile's x is fetched to L2 while this tile's y is written: 2048 rows of 4096, rank 5,
// then take 3.2 ms instead of 4.1, as long as y *= c.
// Where y is other memory of 24 MiB or more, stores go past the caches and x is fetched as well: 2048 rows
// then take 3.3 ms instead of 3.8 to 5.7 (rank 16: 4.9 instead of 6.7 to 7.9), as long as reading x and writing y.
// Stores past the caches do not pay for a smaller y (512 and 1024 rows are 17 % slower at rank 5, 1536 rows 7 %
// faster), where y has no pages yet (40 % slower), or in place (45 % slower).
// Also tried: fetching x alone where y is other memory: 12 to 14 % slower at 128 to 1024 rows of rank 5, 5 %
// faster at rank 16. Fetching y's lines for writing: no change at 2048 rows, 5 to 25 % slower at 128. Tiles of
// 4 rows: no change. (AVX-512 Xeon VM, Nov 2026)
template <class V, int XDtype, int YDtype, bool PastCaches>
ZK_INLINE void adapter_tiles(const TtReady& down, const TtReady& up, float scale, int activation, const TtRows& io,
                             const TtWork& sizes, float* s) {
  float *t = s + padded(sizes.s), *u = t + padded(sizes.t), *hidden = u + padded(sizes.u);
  const int64_t width = down.shape.out;
  for (int64_t row = 0; row < io.rows; row += kTileRows) {
    const int64_t rows = least(kTileRows, io.rows - row);
    const auto* x = static_cast<const typename Lane<V, XDtype>::T*>(io.x) + row * io.x_stride;
    auto* y = static_cast<typename Lane<V, YDtype>::T*>(io.y) + row * io.y_stride;
    reduce<V, XDtype>(down, x, io.x_stride, rows, t, s);
    spread<V>(down, s, rows, u, Write<V, ZK_F32>{hidden, width, down.bias});
    activate_all<V>(hidden, rows * width, activation);
    reduce<V, ZK_F32>(up, hidden, width, rows, t, s);
    const bool ahead = (PastCaches || io.y == io.x) && row + kTileRows < io.rows;
    const auto* next = ahead ? x + kTileRows * io.x_stride : nullptr;
    spread<V>(up, s, rows, u,
              AddScaled<V, XDtype, YDtype, PastCaches>{x, io.x_stride, next, y, io.y_stride, up.bias, scale});
  }
  if (PastCaches) V::end_stream();
}

template <class V, int XDtype, int YDtype>
void run_adapter(const TtReady& down, const TtReady& up, float scale, int activation, const TtRows& io,
                 const TtWork& sizes, float* s) {
  if constexpr (YDtype == ZK_F32) {
    constexpr uintptr_t kVector = V::kLanes * sizeof(float);
    const uintptr_t strides = static_cast<uintptr_t>(io.y_stride | up.shape.out_cols) * sizeof(float);
    const bool aligned = ((reinterpret_cast<uintptr_t>(io.y) | strides) & (kVector - 1)) == 0;
    if (io.past_caches && aligned) {
      return adapter_tiles<V, XDtype, YDtype, true>(down, up, scale, activation, io, sizes, s);
    }
  }
  adapter_tiles<V, XDtype, YDtype, false>(down, up, scale, activation, io, sizes, s);
}

template <class V>
constexpr TtTable make_tt_table() {
  return TtTable{
      multiply<V>,
      {{run_linear<V, ZK_F32, ZK_F32>, run_linear<V, ZK_F32, ZK_F32>},
       {run_linear<V, ZK_BF16, ZK_BF16>, run_linear<V, ZK_BF16, ZK_F32>},
       {run_linear<V, ZK_F16, ZK_F16>, run_linear<V, ZK_F16, ZK_F32>}},
      {{run_adapter<V, ZK_F32, ZK_F32>, run_adapter<V, ZK_F32, ZK_F32>},
       {run_adapter<V, ZK_BF16, ZK_BF16>, run_adapter<V, ZK_BF16, ZK_F32>},
       {run_adapter<V, ZK_F16, ZK_F16>, run_adapter<V, ZK_F16, ZK_F32>}},
  };
}

}  // namespace
}  // namespace zk
