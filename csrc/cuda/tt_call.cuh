// A tensor-train call on the host: tiles and their memory, and the launches in order. No CUDA call is made
// here, so that tests run it as it is (tests/cuda/emulate_tt.cpp).
#pragma once

#include "tt_rows_body.cuh"

namespace zk::cuda {

// By a model of the memory's latency; no sweep on a device has been run.
constexpr int64_t kTtShared = 80 * 1024;  // of a block: two blocks a processor from sm_80 on
constexpr int64_t kTtKept = 48 * 1024;    // of a tile's x
constexpr int64_t kTtFill = 256;          // tiles a call should have: two blocks for each of 132 processors
constexpr int64_t kTtScratchBlocks = 512;

inline int64_t quads(int64_t floats) { return (floats + 3) / 4 * 4; }

// The floats of a tile of `rows` rows; sets where its parts begin.
inline int64_t tile_floats(TtRowsCall& p, int rows, bool keep) {
  const TtRowLayer& first = p.layer[0];
  const int64_t item = p.x_dtype == ZK_F32 ? 4 : 2;
  const int64_t ranks = p.x_dtype == ZK_F32 ? kRanks<F32> : kRanks<BF16>;
  int64_t t = 0, s = 0, u = 0, work = kFoldWork;
  for (int i = 0; i < p.layers; ++i) {
    const TtRowLayer& g = p.layer[i];
    s = std::max<int64_t>(s, g.rank);
    if (g.has_left) {
      t = std::max<int64_t>(t, int64_t{g.in_rank} * g.in_cols);
      const int64_t most = i == 0 ? ranks : kRanks<F32>, vector = i == 0 ? p.x_vector : 1;
      work = std::max(work, kThreads * std::min<int64_t>(most, g.in_rank) * vector);
    }
    if (g.has_outer) u = std::max<int64_t>(u, int64_t{g.out_rows} * g.out_rank);
  }
  p.keep_stride = keep ? (first.in * item + 15) / 16 * 16 : 0;
  p.t = quads(rows * p.keep_stride / 4);
  p.s = p.t + quads(rows * t);
  p.hidden = p.s + quads(rows * s);
  p.work = p.hidden + (p.layers == 2 ? quads(int64_t{rows} * first.out) : 0);
  return p.work + quads(std::max(work, rows * u));
}

// Tiles as large as fit and leave `fill` of them; memory for them where shared memory is too small.
inline void set_tiles(TtRowsCall& p, int64_t queries, int64_t fill) {
  const int64_t row_bytes = p.layer[0].in * int64_t{p.x_dtype == ZK_F32 ? 4 : 2}, all = queries * p.rows;
  const bool keep = p.layer[0].has_left && row_bytes <= kTtKept;
  int rows = all >= 4 * fill ? 4 : all >= 2 * fill ? 2 : 1;
  while (rows > 1 &&
         (rows / 2 >= p.rows || (keep && rows * row_bytes > kTtKept) || tile_floats(p, rows, keep) * 4 > kTtShared))
    rows /= 2;
  p.floats = tile_floats(p, rows, keep);
  if (p.floats * 4 > kTtShared) p.floats = tile_floats(p, rows, false);
  p.tile = rows;
  p.tiles_a_query = (p.rows + rows - 1) / rows;
}

// One call, described. Layers are one, or an adapter's two; `io` has rows and queries.
struct TtCallPlan {
  TtPlanner planner;
  TtRowsCall rows{};
  int64_t group_floats = 0;  // of a query
  int64_t queries = 0;       // of one launch
  int64_t scratch_blocks = 0;

  TtCallPlan(const zk_tt* layers, int count, const zk_tt_rows& io, bool noise, float* workspace, int64_t fill = kTtFill)
      : planner(nullptr, 0, noise) {
    for (int i = 0; i < count; ++i) plan_layer(layers[i], planner);
    group_floats = planner.used;
    planner = TtPlanner(workspace, group_floats, noise);
    for (int i = 0; i < count; ++i) rows.layer[i] = plan_layer(layers[i], planner);
    rows.layers = count;
    rows.x_stride = io.x_stride, rows.y_stride = io.y_stride, rows.rows = io.rows;
    rows.x_dtype = io.x_dtype, rows.y_wide = io.y_dtype != io.x_dtype;
    queries = noise ? std::min<int64_t>(io.queries, kTtQueries) : io.queries;
    const int64_t item = io.x_dtype == ZK_F32 ? 4 : 2, y_item = rows.y_wide ? 4 : item;
    const auto fits = [](const void* p, int64_t stride, int64_t bytes, int64_t elements) {
      return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(std::min<int64_t>(bytes, 16)) == 0 &&
             stride % elements == 0;
    };
    const int32_t widest = item == 2 ? 8 : 4;
    const TtRowLayer &first = rows.layer[0], &last = rows.layer[count - 1];
    rows.x_vector = rows.y_vector = 1;
    for (int32_t v = 4; v <= widest; v *= 2) {  // 16 bytes, or of a 16-bit x 8
      const bool x_fits = fits(io.x, io.x_stride, v * item, v), y_fits = fits(io.y, io.y_stride, v * y_item, v);
      if (x_fits && first.in_cols % v == 0) rows.x_vector = v;
      if (y_fits && (x_fits || count == 1) && last.out_cols % v == 0) rows.y_vector = v;
    }
    set_tiles(rows, io.queries, fill);
    if (rows.floats * 4 > kTtShared) scratch_blocks = std::min(queries * rows.tiles_a_query, kTtScratchBlocks);
    if (scratch_blocks) rows.x_vector = rows.y_vector = 1;
    if (scratch_blocks && workspace) rows.scratch = workspace + queries * group_floats;
  }
  int64_t workspace_floats() const { return queries * group_floats + scratch_blocks * rows.floats; }
};

// Runs a call through groups(TtGroups, blocks) and rows(TtRowsCall, blocks), which launch.
template <class Groups, class Rows>
int run_tt(const zk_tt* layers, int count, float scale, int activation, const zk_tt_rows& io, const zk_tt_noise* noise,
           float* workspace, const Groups& launch_groups, const Rows& launch_rows, int64_t fill = kTtFill) {
  if (io.rows == 0 || io.queries == 0) return ZK_OK;
  if (io.x_dtype > ZK_F16 || (io.y_dtype != io.x_dtype && io.y_dtype != ZK_F32)) return ZK_BAD_DTYPE;
  TtCallPlan plan(layers, count, io, noise != nullptr, workspace, fill);
  TtGroups groups{};
  if (!plan.planner.fit.ok || !set_groups(plan.planner, groups)) return ZK_TOO_LARGE;
  TtRowsCall& rows = plan.rows;
  rows.scale = scale, rows.activation = activation;
  if (noise) groups.stream = noise->stream, groups.distribution = noise->distribution;
  for (int64_t first = 0; first < io.queries; first += plan.queries) {
    const int64_t queries = std::min(plan.queries, io.queries - first);
    for (int64_t q = 0; noise && q < queries; ++q)
      groups.terms[q] = make_term(noise->seeds[first + q], noise->scales[first + q]);
    rows.x = static_cast<const char*>(io.x) + first * io.rows * io.x_stride * (rows.x_dtype == ZK_F32 ? 4 : 2);
    rows.y = static_cast<char*>(io.y) + first * io.rows * io.y_stride * (io.y_dtype == ZK_F32 ? 4 : 2);
    rows.tiles = queries * rows.tiles_a_query;
    const int64_t group_blocks = queries * groups.blocks;
    const int64_t row_blocks = rows.scratch ? std::min(rows.tiles, plan.scratch_blocks) : rows.tiles;
    if (group_blocks >= int64_t{1} << 31 || row_blocks >= int64_t{1} << 31) return ZK_TOO_LARGE;
    if (group_blocks > 0)
      if (const int status = launch_groups(groups, static_cast<uint32_t>(group_blocks)); status != ZK_OK) return status;
    if (const int status = launch_rows(rows, static_cast<uint32_t>(row_blocks)); status != ZK_OK) return status;
  }
  return ZK_OK;
}

// The two halves, written whole: [queries, in, r] and [queries, r, out].
inline void plan_halves(const zk_tt& layer, TtPlanner& planner, float* left, float* right) {
  zk_tt whole = layer;
  whole.in_cut = 0, whole.out_cut = whole.split;
  const TtShape g(whole);
  planner.from_left(layer, 0, layer.split, {left, g.in * g.rank});
  planner.from_right(layer, layer.split, {right, g.rank * g.out});
}

template <class Groups>
int run_tt_halves(const zk_tt& layer, float* left, float* right, int64_t queries, float* workspace,
                  const Groups& launch_groups) {
  TtPlanner measure(nullptr, 0, false);
  plan_halves(layer, measure, left, right);
  TtPlanner planner(workspace, measure.used, false);
  plan_halves(layer, planner, left, right);
  TtGroups groups{};
  if (!planner.fit.ok || !set_groups(planner, groups) || queries * groups.blocks >= int64_t{1} << 31)
    return ZK_TOO_LARGE;
  return launch_groups(groups, static_cast<uint32_t>(queries * groups.blocks));
}

inline int64_t halves_floats(const zk_tt& layer, int64_t queries) {
  float any[4];  // a target that nothing is written to
  TtPlanner measure(nullptr, 0, false);
  plan_halves(layer, measure, any, any);
  return queries * measure.used;
}

}  // namespace zk::cuda
