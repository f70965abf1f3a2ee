// A tensor-train call as two launches: the contraction of the cores to groups, then tiles of rows.
//
//   groups  one block for every (query, layer, group): left, middle, outer, right, bias of csrc/core/tt.h,
//           down's and up's side by side. A block walks the steps of its chain, from the rank-1 boundary
//           inward, with a barrier between steps: perturb a core, then c = a b. Large chains are cut into
//           slices along the boundary's mode, which never meet, one block each.
//   rows    one block a tile of 1, 2 or 4 rows of one query (tt_rows_body.cuh).
//
// Everything travels in the kernels' parameters; memory is the caller's workspace (a few KB a query).
// Host code without any CUDA call, so that tests run the very same plan (tests/cuda/emulate_tt.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/scalar.h"
#include "../core/tt.h"
#include "tensor_list.cuh"

namespace zk::cuda {

constexpr int kTtSteps = 256;          // of one launch: every core, its noise included, is at most two
constexpr int kTtTasks = 10;           // five groups of two layers
constexpr int kTtQueries = 256;        // with noise; more queries go in further launches
constexpr int64_t kSliceWork = 16384;  // multiply-adds of a slice: 64 a thread
constexpr int32_t kMaxSlices = 64;

// c [m, n] = a [m, k] b [k, n]; without b, c [m] = a [m], perturbed where offset is not ZK_TT_FIXED.
struct TtStep {
  const float *a, *b;
  float* c;
  int64_t a_stride, b_stride, c_stride;  // from one query to the next
  uint64_t offset;
  int32_t m, k, n;
  int32_t lead;  // size of the mode that slices cut: leading in m, or trailing in n where `right`
  int32_t right;
};

struct TtTask {
  int32_t first, last;  // steps
  int32_t slices;
  int32_t first_block;  // within a query
};

struct TtGroups {
  int32_t tasks;
  int32_t blocks;  // of one query
  uint32_t stream;
  int32_t distribution;
  TtTask task[kTtTasks];
  TtStep steps[kTtSteps];
  Term terms[kTtQueries];  // seed and scale of each query, with noise
};
static_assert(sizeof(TtGroups) <= kParamBytes);

struct TtGroup {  // where a contracted group lies
  const float* data;
  int64_t stride;  // from one query to the next
};

struct TtRowLayer {
  TtGroup left, middle, outer, right, bias;  // left, outer and bias: null data where absent
  int32_t in, out, rank, has_left, has_outer;
  int32_t in_rows, in_cols, in_rank;
  int32_t out_rows, out_cols, out_rank;
};

struct TtRowsCall {
  TtRowLayer layer[2];
  const char* x;
  char* y;
  int64_t x_stride, y_stride, rows;  // strides in elements
  int64_t tiles, tiles_a_query;
  float* scratch;              // `floats` a block in device memory, where shared memory is too small; else null
  int64_t floats;              // of a tile
  int64_t keep_stride;         // bytes of a kept row of x; 0: x is read again for the residual
  int64_t t, s, hidden, work;  // where they begin, in floats
  float scale;
  int32_t layers, activation;
  int32_t tile;                // rows: 1, 2 or 4
  int32_t x_dtype, y_wide;     // y is fp32 where x is not
  int32_t x_vector, y_vector;  // elements moved at once
};

// ---- host

struct TtFit {  // whether sizes and counts stay within the kernels' arithmetic
  bool ok = true;
  int32_t number(int64_t n) {
    ok = ok && n >= 0 && n < (int64_t{1} << 31);
    return static_cast<int32_t>(n);
  }
};

// Collects steps. With a null base it only measures: run it once to learn the floats of a query, then again.
class TtPlanner {
 public:
  TtPlanner(float* base, int64_t floats_a_query, bool noise) : base_(base), stride_(floats_a_query), noise_(noise) {}

  std::vector<TtStep> steps;
  std::vector<TtTask> tasks;
  TtFit fit;
  int64_t used = 0;

  // Cores [first, last) grown from the left, [ranks[first] * modes, ranks[last]].
  TtGroup from_left(const zk_tt& t, int first, int last, TtGroup target = {}) {
    begin();
    TtGroup done = core(t, first, last == first + 1 ? target : TtGroup{});
    int64_t rows = t.ranks[first] * t.modes[first];
    const int32_t lead = fit.number(rows);
    for (int i = first + 1; i < last; ++i) {
      const TtGroup next = core(t, i);
      const int64_t n = t.modes[i] * t.ranks[i + 1];
      done = multiply(done, next, rows, t.ranks[i], n, lead, 0, i + 1 == last ? target : TtGroup{});
      rows *= t.modes[i];
    }
    end(lead);
    return done;
  }
  // Cores [first, n) grown from the right, [ranks[first], modes].
  TtGroup from_right(const zk_tt& t, int first, TtGroup target = {}) {
    begin();
    int i = t.n_cores - 1;
    TtGroup done = core(t, i, i == first ? target : TtGroup{}, i == first);
    int64_t columns = t.modes[i];
    const int32_t lead = fit.number(columns);
    while (--i >= first) {
      const TtGroup next = core(t, i);
      done = multiply(next, done, t.ranks[i] * t.modes[i], t.ranks[i + 1], columns, lead, 1,
                      i == first ? target : TtGroup{});
      columns *= t.modes[i];
    }
    end(lead);
    return done;
  }
  TtGroup bias(const zk_tt& t, int64_t out) {
    if (!t.bias) return {};
    begin();
    const uint64_t offset = noise_ ? t.offsets[t.n_cores] : ZK_TT_FIXED;
    const TtGroup done = place({t.bias, t.bias_stride}, out, offset, {}, true);
    end(1);
    return done;
  }

 private:
  float* base_;
  int64_t stride_;
  bool noise_;
  size_t begun_ = 0;
  int64_t work_ = 0;

  void begin() { begun_ = steps.size(), work_ = 0; }
  void end(int32_t lead) {
    if (steps.size() == begun_) return;
    bool moves = false;  // a slice needs whole cores, so perturbed ones are made by one block
    for (size_t i = begun_; i < steps.size(); ++i) moves = moves || !steps[i].b;
    const int64_t wanted = moves ? 1 : std::min<int64_t>({work_ / kSliceWork + 1, lead, kMaxSlices});
    tasks.push_back(
        {static_cast<int32_t>(begun_), static_cast<int32_t>(steps.size()), static_cast<int32_t>(wanted), 0});
  }
  TtGroup take(int64_t floats) {
    const TtGroup group{base_ ? base_ + used : nullptr, stride_};
    used += (floats + 3) / 4 * 4;  // 16-byte vectors
    return group;
  }
  static bool aligned(const TtGroup& g) { return reinterpret_cast<uintptr_t>(g.data) % 16 == 0 && g.stride % 4 == 0; }

  // The values of `from`, moved where they are perturbed, must be aligned and are not, or have a target.
  TtGroup place(TtGroup from, int64_t n, uint64_t offset, TtGroup target, bool vectors) {
    if (offset == ZK_TT_FIXED && !target.data && (!vectors || aligned(from))) return from;
    const TtGroup to = target.data ? target : take(n);
    TtStep step{};
    step.a = from.data, step.a_stride = from.stride, step.c = const_cast<float*>(to.data), step.c_stride = to.stride;
    step.m = fit.number(n), step.offset = offset;
    steps.push_back(step);
    return to;
  }
  TtGroup core(const zk_tt& t, int i, TtGroup target = {}, bool vectors = false) {
    const uint64_t offset = noise_ ? t.offsets[i] : ZK_TT_FIXED;
    return place({t.cores[i], t.core_strides[i]}, t.ranks[i] * t.modes[i] * t.ranks[i + 1], offset, target, vectors);
  }
  TtGroup multiply(TtGroup a, TtGroup b, int64_t m, int64_t k, int64_t n, int32_t lead, int32_t right, TtGroup target) {
    const TtGroup c = target.data ? target : take(m * n);
    fit.number(m * n), fit.number(m * k), fit.number(k * n);
    work_ += m * n * k;
    steps.push_back({a.data, b.data, const_cast<float*>(c.data), a.stride, b.stride, c.stride, ZK_TT_FIXED,
                     fit.number(m), fit.number(k), fit.number(n), lead, right});
    return c;
  }
};

// The groups of one layer as its cuts say.
inline TtRowLayer plan_layer(const zk_tt& t, TtPlanner& planner) {
  const TtShape g(t);
  TtRowLayer layer{};
  layer.has_left = t.in_cut > 0, layer.has_outer = t.out_cut > t.split;
  if (t.in_cut > 0) layer.left = planner.from_left(t, 0, t.in_cut);
  layer.middle = planner.from_left(t, t.in_cut, t.split);
  if (t.out_cut > t.split) layer.outer = planner.from_left(t, t.split, t.out_cut);
  layer.right = planner.from_right(t, t.out_cut);
  layer.bias = planner.bias(t, g.out);
  TtFit& fit = planner.fit;
  layer.in = fit.number(g.in), layer.out = fit.number(g.out), layer.rank = fit.number(g.rank);
  layer.in_rows = fit.number(g.in_rows), layer.in_cols = fit.number(g.in_cols), layer.in_rank = fit.number(g.in_rank);
  layer.out_rows = fit.number(g.out_rows), layer.out_cols = fit.number(g.out_cols);
  layer.out_rank = fit.number(g.out_rank);
  fit.number(4 * g.in_rank * g.in_cols), fit.number(4 * g.out_rows * g.out_rank), fit.number(4 * g.out);
  return layer;
}

// The parameters of the groups' launch; false where there are too many steps.
inline bool set_groups(const TtPlanner& planner, TtGroups& groups) {
  if (planner.steps.size() > kTtSteps) return false;
  std::copy(planner.steps.begin(), planner.steps.end(), groups.steps);
  std::copy(planner.tasks.begin(), planner.tasks.end(), groups.task);
  groups.tasks = static_cast<int32_t>(planner.tasks.size());
  groups.blocks = 0;
  for (int32_t i = 0; i < groups.tasks; ++i) {
    groups.task[i].first_block = groups.blocks;
    groups.blocks += groups.task[i].slices;
  }
  return true;
}

}  // namespace zk::cuda
