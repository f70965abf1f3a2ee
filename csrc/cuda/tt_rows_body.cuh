// What a block of the rows' launch does: a tile of rows through a linear layer, or through an adapter's two.
//
//   project  t[b, k] = sum_i left[i, b] x[i, k]     a thread owns one 16-byte vector of columns k and walks
//                                                   every n-th i; partial sums meet in shared memory
//   fold     s[c] = sum_bk t[b, k] middle[b, k, c]
//   spread   u[j, d] = sum_c s[c] outer[c, j, d];  y[j, k] = bias + sum_d u[j, d] right[d, k]
//
// x is read once from memory: the tile is kept in shared memory for the residual where it fits (it does at
// hidden 4096), else it is read again, mostly from L2. y is written once. The groups (11 KiB at hidden 4096,
// rank 5) are read through L1. The modes that stay uncontracted (K of x, Q of y) are the vectors, so one
// coefficient serves up to 8 elements; the halves, 80 KiB each, would be read again for every tile.
//
// Any shape: K, Q, strides or addresses that do not allow 16-byte vectors go by 8 bytes or by element; ranks
// go in chunks of registers; a tile that shared memory does not hold lies in the workspace.
// Sums have a fixed order that depends on the shapes and on the number of rows of the call.
#pragma once

#include "tt_plan.cuh"
#include "vectors.cuh"

namespace zk::cuda {

constexpr int kTtRows = 4;                      // rows of a tile, at most
constexpr uint32_t kFoldSums = 64;              // sums of fold() under way
constexpr uint32_t kFoldWork = kFoldSums * 33;  // floats they take: 32 partial sums and one against bank conflicts

template <class F>
constexpr int kRanks = sizeof(typename F::bits) == 2 ? 6 : 8;  // of project(), in registers: 48 or 32 sums

struct TtTile {
  const char* x;     // of its first row
  int64_t x_stride;  // bytes
  char* kept;
  int64_t keep_stride;
  bool keep;  // whether kept holds x once it has been read
  float *t, *s, *hidden, *work;
  uint32_t rows, tile;  // rows there are, rows it has room for
};

// The groups of a query.
struct TtPointers {
  const float *left, *middle, *outer, *right, *bias;
};
ZK_INLINE TtPointers pointers_of(const TtRowLayer& g, int64_t query) {
  const auto at = [=](const TtGroup& group) { return group.data ? group.data + query * group.stride : nullptr; };
  return {at(g.left), at(g.middle), at(g.outer), at(g.right), at(g.bias)};
}

template <class F, int V, class Block>
ZK_INLINE void project(const TtRowLayer& g, const float* left, const TtTile& tile, const Block& block) {
  constexpr int B = kRanks<F>;
  constexpr uint32_t kBytes = V * sizeof(typename F::bits);
  const uint32_t threads = kThreads / tile.tile;  // of a row
  const uint32_t row = block.thread / threads, lane = block.thread % threads;
  const uint32_t I = static_cast<uint32_t>(g.in_rows), K = static_cast<uint32_t>(g.in_cols), vectors = K / V;
  const uint32_t p = static_cast<uint32_t>(g.in_rank), chunks = (p + B - 1) / B, most = (p + chunks - 1) / chunks;
  ZK_NO_UNROLL
  for (uint32_t k0 = 0; k0 < vectors; k0 += threads) {
    const uint32_t width = vectors - k0 < threads ? vectors - k0 : threads, groups = threads / width;
    const uint32_t first = lane / width, column = k0 + lane % width;
    const bool active = first < groups && row < tile.rows;
    ZK_NO_UNROLL
    for (uint32_t b0 = 0; b0 < p; b0 += most) {
      const uint32_t ranks = p - b0 < most ? p - b0 : most;
      float sum[B][V] = {};
      if (active) {
        const char* from = tile.x + row * tile.x_stride;
        char* kept = tile.kept + row * tile.keep_stride;
        const bool again = tile.keep && b0 > 0;
#ifdef __CUDACC__
#pragma unroll 4
#endif
        for (uint32_t i = first; i < I; i += groups) {
          const uint32_t at = (i * vectors + column) * kBytes;
          // two loads, not one through a chosen pointer: each knows its memory
          const Raw<F, V> raw = again ? load_raw<F, V>(kept + at) : load_raw<F, V>(from + at);
          if (tile.keep && b0 == 0) *reinterpret_cast<Raw<F, V>*>(kept + at) = raw;
          float v[V];
          widen<F, V>(raw, v);
          const float* coefficient = left + static_cast<uint64_t>(i) * p + b0;
          ZK_UNROLL
          for (uint32_t b = 0; b < B; ++b) {
            if (b < ranks) {
              const float l = coefficient[b];
              ZK_UNROLL
              for (int j = 0; j < V; ++j) sum[b][j] = fma_rn(l, v[j], sum[b][j]);
            }
          }
        }
        float* partial = tile.work + (row * threads + first * width) * ranks * V + lane % width * V;
        ZK_UNROLL
        for (uint32_t b = 0; b < B; ++b) {
          if (b < ranks) store_as<F32, V>(reinterpret_cast<char*>(partial + b * width * V), sum[b]);
        }
      }
      block.sync();
      const uint32_t sums = ranks * width * V;  // of a row
      ZK_NO_UNROLL
      for (uint32_t e = block.thread; e < tile.rows * sums; e += kThreads) {
        const uint32_t r = e / sums, at = e % sums, b = at / (width * V), k = at % (width * V);
        const float* partial = tile.work + r * threads * ranks * V + at;
        float total = partial[0];
        for (uint32_t other = 1; other < groups; ++other) total = total + partial[other * sums];
        tile.t[(r * p + b0 + b) * K + k0 * V + k] = total;
      }
      block.sync();
    }
  }
}

// s [rows, r] = flat [rows, n] middle [n, r]: `lanes` (a power of two up to 32) partial sums of each, added in order.
template <class F, class Block>
ZK_INLINE void fold(const char* flat, int64_t stride, uint32_t n, const float* middle, uint32_t r, uint32_t lanes,
                    const TtTile& tile, const Block& block) {
  const uint32_t all = tile.rows * r, lane = block.thread % lanes;
  ZK_NO_UNROLL
  for (uint32_t base = 0; base < all; base += kFoldSums) {
    const uint32_t sums = all - base < kFoldSums ? all - base : kFoldSums;
    ZK_NO_UNROLL
    for (uint32_t e = block.thread / lanes; e < sums; e += kThreads / lanes) {
      const uint32_t row = (base + e) / r, c = (base + e) % r;
      const auto* from = reinterpret_cast<const typename F::bits*>(flat + row * stride);
      float sum = 0.0f;
#ifdef __CUDACC__
#pragma unroll 4
#endif
      for (uint32_t i = lane; i < n; i += lanes)
        sum = fma_rn(F::value(from[i]), middle[static_cast<uint64_t>(i) * r + c], sum);
      tile.work[e * 33 + lane] = sum;
    }
    block.sync();
    ZK_NO_UNROLL
    for (uint32_t e = block.thread; e < sums; e += kThreads) {
      float total = tile.work[e * 33];
      for (uint32_t other = 1; other < lanes; ++other) total = total + tile.work[e * 33 + other];
      tile.s[base + e] = total;
    }
    block.sync();
  }
}

// s of x in memory.
template <class F, bool kVectors, class Block>
ZK_INLINE void reduce_x(const TtRowLayer& g, const TtPointers& at, int32_t vector, const TtTile& tile,
                        const Block& block) {
  const uint32_t r = static_cast<uint32_t>(g.rank), n = static_cast<uint32_t>(g.in_rank * g.in_cols);
  if (!at.left) return fold<F>(tile.x, tile.x_stride, n, at.middle, r, 32, tile, block);
  if constexpr (kVectors && sizeof(typename F::bits) == 2)
    if (vector == 8) project<F, 8>(g, at.left, tile, block);
  if constexpr (kVectors)
    if (vector == 4) project<F, 4>(g, at.left, tile, block);
  if (vector == 1) project<F, 1>(g, at.left, tile, block);
  fold<F32>(reinterpret_cast<const char*>(tile.t), n * 4, n, at.middle, r, 8, tile, block);
}

// s of an adapter's hidden rows.
template <class Block>
ZK_INLINE void reduce_hidden(const TtRowLayer& g, const TtPointers& at, TtTile tile, const Block& block) {
  const uint32_t r = static_cast<uint32_t>(g.rank), n = static_cast<uint32_t>(g.in_rank * g.in_cols);
  const char* flat = reinterpret_cast<const char*>(tile.hidden);
  if (at.left) {
    tile.x = flat, tile.x_stride = 4 * int64_t{g.in}, tile.keep = false;
    project<F32, 1>(g, at.left, tile, block);
    flat = reinterpret_cast<const char*>(tile.t);
  }
  fold<F32>(flat, n * 4, n, at.middle, r, 8, tile, block);
}

// What becomes of bias + sum: fp32 rows (hidden), y, or the residual and y.
struct ToHidden {
  float* hidden;
  uint32_t width;
  template <int V>
  ZK_MEMBER void end(uint32_t row, uint32_t column, const float (&sum)[V]) const {
    ZK_UNROLL
    for (int j = 0; j < V; ++j) hidden[row * width + column + static_cast<uint32_t>(j)] = sum[j];
  }
};

template <class F>
struct ToY {
  const char *x, *kept;
  int64_t x_stride, keep_stride;  // bytes
  char* y;
  int64_t y_stride;
  float scale;
  bool residual, keep, wide;
  template <int V>
  ZK_MEMBER void end(uint32_t row, uint32_t column, const float (&sum)[V]) const {
    constexpr uint32_t kItem = sizeof(typename F::bits);
    float v[V];
    if (residual) {
      const uint32_t at = column * kItem;
      widen<F, V>(keep ? load_raw<F, V>(kept + row * keep_stride + at) : load_raw<F, V>(x + row * x_stride + at), v);
      ZK_UNROLL
      for (int j = 0; j < V; ++j) v[j] = fma_rn(scale, sum[j], v[j]);
    } else {
      ZK_UNROLL
      for (int j = 0; j < V; ++j) v[j] = sum[j];
    }
    if (wide)
      store_as<F32, V>(y + row * y_stride + column * 4, v);
    else
      store_as<F, V>(y + row * y_stride + column * kItem, v);
  }
};

// from [rows, stride]: u, or s where there is no outer group.
template <int V, class End>
ZK_INLINE void spread_vectors(const TtRowLayer& g, const TtPointers& at, const float* from, uint32_t stride,
                              uint32_t rows, const End& to, uint32_t thread) {
  const uint32_t vectors = static_cast<uint32_t>(g.out) / V, across = static_cast<uint32_t>(g.out_cols) / V;
  const uint32_t q = static_cast<uint32_t>(g.out_rank), Q = static_cast<uint32_t>(g.out_cols);
  ZK_NO_UNROLL
  for (uint32_t v = thread; v < vectors; v += kThreads) {
    const float* u = from + v / across * q;
    const float* right = at.right + v % across * V;
    float sum[kTtRows][V], start[V] = {};
    if (at.bias) load_floats<V>(at.bias + v * V, start);
    ZK_UNROLL
    for (int row = 0; row < kTtRows; ++row) {
      ZK_UNROLL
      for (int j = 0; j < V; ++j) sum[row][j] = start[j];
    }
    ZK_NO_UNROLL
    for (uint32_t d = 0; d < q; ++d) {
      float r[V];
      load_floats<V>(right + static_cast<uint64_t>(d) * Q, r);
      ZK_UNROLL
      for (uint32_t row = 0; row < kTtRows; ++row) {
        if (row < rows) {
          const float factor = u[row * stride + d];
          ZK_UNROLL
          for (int j = 0; j < V; ++j) sum[row][j] = fma_rn(factor, r[j], sum[row][j]);
        }
      }
    }
    ZK_UNROLL
    for (uint32_t row = 0; row < kTtRows; ++row)
      if (row < rows) to.template end<V>(row, v * V, sum[row]);
  }
}

// u, where there is an outer group, and the rows to walk on with.
template <class Block>
ZK_INLINE const float* outer_rows(const TtRowLayer& g, const TtPointers& at, const TtTile& tile, uint32_t& stride,
                                  const Block& block) {
  const uint32_t r = static_cast<uint32_t>(g.rank);
  stride = r;
  if (!at.outer) return tile.s;
  stride = static_cast<uint32_t>(g.out_rows * g.out_rank);
  ZK_NO_UNROLL
  for (uint32_t e = block.thread; e < tile.rows * stride; e += kThreads) {
    const uint32_t row = e / stride, column = e % stride;
    float sum = 0.0f;
    ZK_NO_UNROLL
    for (uint32_t c = 0; c < r; ++c)
      sum = fma_rn(tile.s[row * r + c], at.outer[static_cast<uint64_t>(c) * stride + column], sum);
    tile.work[e] = sum;
  }
  block.sync();
  return tile.work;
}

template <class F, bool kVectors, class Block>
ZK_INLINE void run_tile(const TtRowsCall& p, int64_t index, float* memory, const Block& block) {
  constexpr int64_t kItem = sizeof(typename F::bits);
  const int64_t query = index / p.tiles_a_query, first = index % p.tiles_a_query * p.tile;
  const int64_t row = query * p.rows + first, left = p.rows - first;
  TtTile tile;
  tile.tile = static_cast<uint32_t>(p.tile);
  tile.rows = left < p.tile ? static_cast<uint32_t>(left) : tile.tile;
  tile.x = p.x + row * p.x_stride * kItem, tile.x_stride = p.x_stride * kItem;
  tile.kept = reinterpret_cast<char*>(memory), tile.keep_stride = p.keep_stride, tile.keep = p.keep_stride != 0;
  tile.t = memory + p.t, tile.s = memory + p.s, tile.hidden = memory + p.hidden, tile.work = memory + p.work;

  const TtRowLayer& last = p.layer[p.layers - 1];
  uint32_t stride;
  TtPointers at = pointers_of(p.layer[0], query);
  reduce_x<F, kVectors>(p.layer[0], at, p.x_vector, tile, block);
  if (p.layers == 2) {
    const float* from = outer_rows(p.layer[0], at, tile, stride, block);
    const uint32_t width = static_cast<uint32_t>(p.layer[0].out);
    spread_vectors<1>(p.layer[0], at, from, stride, tile.rows, ToHidden{tile.hidden, width}, block.thread);
    block.sync();
    if (p.activation != ZK_IDENTITY) {
      ZK_NO_UNROLL
      for (uint32_t e = block.thread; e < tile.rows * width; e += kThreads)
        tile.hidden[e] = activate<Scalar>(tile.hidden[e], p.activation);
      block.sync();
    }
    at = pointers_of(last, query);
    reduce_hidden(last, at, tile, block);
  }
  const float* from = outer_rows(last, at, tile, stride, block);
  const ToY<F> to{tile.x,
                  tile.kept,
                  tile.x_stride,
                  tile.keep_stride,
                  p.y + row * p.y_stride * (p.y_wide ? 4 : kItem),
                  p.y_stride * (p.y_wide ? 4 : kItem),
                  p.scale,
                  p.layers == 2,
                  tile.keep,
                  p.y_wide != 0};
  if constexpr (kVectors && kItem == 2)
    if (p.y_vector == 8) spread_vectors<8>(last, at, from, stride, tile.rows, to, block.thread);
  if constexpr (kVectors)
    if (p.y_vector == 4) spread_vectors<4>(last, at, from, stride, tile.rows, to, block.thread);
  if (p.y_vector == 1) spread_vectors<1>(last, at, from, stride, tile.rows, to, block.thread);
  block.sync();  // before the next tile writes where this one is still read
}

// `memory`: of the block, in shared memory or in the workspace; then all goes by element.
template <class F, bool kVectors, class Block>
ZK_INLINE void run_rows(const TtRowsCall& p, int64_t index, int64_t blocks, float* memory, const Block& block) {
  ZK_NO_UNROLL
  for (int64_t tile = index; tile < p.tiles; tile += blocks) run_tile<F, kVectors>(p, tile, memory, block);
}

}  // namespace zk::cuda
