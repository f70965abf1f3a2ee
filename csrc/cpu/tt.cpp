// Tensor-train layers on the CPU: makes the noise, contracts the cores to groups, hands rows to threads.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "parallel.h"
#include "tables.h"

namespace zk {
namespace {

// Work below this many multiply-adds runs on the calling thread: 60 us on a 2.6 GHz Xeon, where making
// a thread costs 8 (Nov 2026).
constexpr int64_t kSerialWork = 1 << 20;

// Memory that a thread keeps between calls: its size depends on the layer, not on the rows.
enum ScratchUse { kGroupsOfCall, kWorkOfThread };
template <ScratchUse Use>
float* scratch(int64_t floats) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t size = 0;
  if (size < floats) {
    memory.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(padded(floats)) * sizeof(float))));
    size = memory ? floats : 0;
  }
  return memory.get();
}

// Hands out pieces of one block of memory. Without a block it only counts how large one must be, and the
// code that fills the pieces is skipped: the same functions measure and run.
struct Arena {
  float* base;
  int64_t used = 0;

  float* take(int64_t floats) {
    float* piece = base ? base + used : nullptr;
    used += padded(floats);
    return piece;
  }
};

struct Chain {
  const TtTable& table;
  const zk_tt& layer;
  const float* const* cores;
  Arena& arena;

  // Cores [first, last) as [ranks[first] * modes, ranks[last]], grown from the left.
  const float* from_left(int first, int last) {
    const float* done = cores[first];
    int64_t rows = layer.ranks[first] * layer.modes[first];
    for (int i = first + 1; i < last; ++i) {
      const int64_t n = layer.modes[i] * layer.ranks[i + 1];
      float* next = arena.take(rows * n);
      if (next) table.multiply(done, layer.ranks[i], cores[i], n, next, n, rows, layer.ranks[i], n);
      done = next;
      rows *= layer.modes[i];
    }
    return done;
  }
  // Cores [first, n) as [ranks[first], modes], grown from the right.
  const float* from_right(int first) {
    int i = layer.n_cores - 1;
    const float* done = cores[i];
    int64_t columns = layer.modes[i];
    while (--i >= first) {
      const int64_t m = layer.ranks[i] * layer.modes[i];
      float* next = arena.take(m * columns);
      if (next)
        table.multiply(cores[i], layer.ranks[i + 1], done, columns, next, columns, m, layer.ranks[i + 1], columns);
      done = next;
      columns *= layer.modes[i];
    }
    return done;
  }
};

// One layer of one query on its way: where its cores are, and what they are contracted to.
struct Layer {
  const zk_tt& tt;
  TtReady ready;
  std::vector<const float*> cores;

  explicit Layer(const zk_tt& t)
      : tt(t), ready{TtShape(t), nullptr, nullptr, nullptr, nullptr, nullptr}, cores(static_cast<size_t>(t.n_cores)) {}

  int64_t core_size(int i) const { return tt.ranks[i] * tt.modes[i] * tt.ranks[i + 1]; }
  void select(int64_t query) {
    for (int i = 0; i < tt.n_cores; ++i) cores[static_cast<size_t>(i)] = tt.cores[i] + query * tt.core_strides[i];
    ready.bias = tt.bias ? tt.bias + query * tt.bias_stride : nullptr;
  }
  void contract_input(const TtTable& table, Arena& arena) {
    Chain chain{table, tt, cores.data(), arena};
    ready.left = tt.in_cut ? chain.from_left(0, tt.in_cut) : nullptr;
    ready.middle = chain.from_left(tt.in_cut, tt.split);
  }
  void contract_output(const TtTable& table, Arena& arena) {
    Chain chain{table, tt, cores.data(), arena};
    ready.outer = tt.out_cut > tt.split ? chain.from_left(tt.split, tt.out_cut) : nullptr;
    ready.right = chain.from_right(tt.out_cut);
  }
  // about the multiply-adds of both chains: most are in the last product of each
  int64_t contraction_work() const {
    const TtShape& g = ready.shape;
    int64_t work = 0;
    if (tt.in_cut > 1) work += g.in_rows * g.in_rank * tt.ranks[tt.in_cut - 1];
    if (tt.split - tt.in_cut > 1) work += g.in_rank * g.in_cols * g.rank * tt.ranks[tt.split - 1];
    if (tt.out_cut - tt.split > 1) work += g.rank * g.out_rows * g.out_rank * tt.ranks[tt.out_cut - 1];
    if (tt.n_cores - tt.out_cut > 1) work += g.out_rank * g.out_cols * tt.ranks[tt.out_cut + 1];
    return work;
  }
};

// The perturbed cores and biases of one query, in `arena`. Neighbours in memory and in the stream are
// one tensor of the move: all of a layer's, when they are views of one buffer.
int perturb(std::vector<Layer>& layers, const zk_tt_noise& noise, int64_t query, int isa, Arena& arena) {
  std::vector<zk_tensor> list;
  auto add = [&](const float* source, int64_t n, uint64_t offset) -> const float* {
    if (offset == ZK_TT_FIXED) return source;
    zk_tensor* last = list.empty() ? nullptr : &list.back();
    if (last && static_cast<const float*>(last->src) + last->numel == source &&
        last->offset + static_cast<uint64_t>(last->numel) == offset) {
      float* target = static_cast<float*>(last->dst) + last->numel;
      last->numel += n;
      arena.used = (target - arena.base) + n;
      return target;
    }
    arena.used = padded(arena.used);
    float* target = arena.base + arena.used;
    arena.used += n;
    zk_tensor t{};
    t.src = source, t.dst = target, t.numel = n, t.offset = offset, t.stream = noise.stream, t.dtype = ZK_F32;
    list.push_back(t);
    return target;
  };
  for (Layer& layer : layers) {
    for (int i = 0; i < layer.tt.n_cores; ++i) {
      layer.cores[static_cast<size_t>(i)] = add(layer.tt.cores[i], layer.core_size(i), layer.tt.offsets[i]);
    }
    if (layer.tt.bias) layer.ready.bias = add(layer.tt.bias, layer.ready.shape.out, layer.tt.offsets[layer.tt.n_cores]);
  }
  arena.used = padded(arena.used);
  const zk_move move{noise.seeds + query, noise.scales + query, 1, 1.0f, 0, noise.distribution, ZK_NEAREST};
  return zk_cpu_perturb(list.data(), static_cast<int64_t>(list.size()), &move, isa, 1);
}

int64_t noise_floats(const std::vector<Layer>& layers) {
  int64_t floats = 0;
  for (const Layer& layer : layers) {
    for (int i = 0; i < layer.tt.n_cores; ++i) floats += padded(layer.core_size(i));
    if (layer.tt.bias) floats += padded(layer.ready.shape.out);
  }
  return floats + 16;
}

size_t element_size(int dtype) { return dtype == ZK_F32 ? 4 : 2; }

constexpr int64_t kPastCaches = 24 << 20;  // bytes of y: see adapter_tiles in tt_body.h

// A call: `Run` is (layers, rows, workspace) -> void for a range of rows of one query.
template <class Run>
int run_call(const TtTable& table, const std::vector<Layer>& plan, const zk_tt_rows& io, const zk_tt_noise* noise,
             int isa, int threads, const Run& run) {
  if (io.rows == 0 || io.queries == 0) return ZK_OK;
  TtWork sizes{};
  int64_t row_work = 0, contraction = 0;
  for (const Layer& layer : plan) {
    const TtShape& g = layer.ready.shape;
    sizes.s = std::max(sizes.s, kTileRows * g.rank);
    sizes.t = std::max(sizes.t, kTileRows * g.in_rank * g.in_cols);
    sizes.u = std::max(sizes.u, kTileRows * g.out_rows * g.out_rank);
    row_work += g.row_work() + 2 * (g.in + g.out);
    contraction += layer.contraction_work();
  }
  if (plan.size() > 1) sizes.hidden = kTileRows * plan[0].ready.shape.out;
  const int64_t work_floats = padded(sizes.s) + padded(sizes.t) + padded(sizes.u) + padded(sizes.hidden);

  std::vector<Layer> layers = plan;  // a copy, whose pointers a query may set
  Arena count{nullptr};
  for (Layer& layer : layers) layer.contract_input(table, count), layer.contract_output(table, count);
  const int64_t made = noise ? noise_floats(layers) : 0, group_floats = made + count.used;
  if (noise) contraction += made * 8;

  const int64_t y_bytes = io.queries * io.rows * io.y_stride * static_cast<int64_t>(element_size(io.y_dtype));
  const bool past_caches = io.y_dtype == ZK_F32 && io.y != io.x && y_bytes >= kPastCaches && has_pages(io.y, y_bytes);
  auto rows_of = [&](int64_t query, int64_t first, int64_t n) {
    const int64_t row = query * io.rows + first;
    return TtRows{static_cast<const char*>(io.x) + row * io.x_stride * static_cast<int64_t>(element_size(io.x_dtype)),
                  static_cast<char*>(io.y) + row * io.y_stride * static_cast<int64_t>(element_size(io.y_dtype)),
                  io.x_stride,
                  io.y_stride,
                  n,
                  past_caches};
  };
  auto gather = [&](std::vector<Layer>& own, int64_t query, Arena& arena) {
    for (Layer& layer : own) layer.select(query);
    return noise ? perturb(own, *noise, query, isa, arena) : ZK_OK;
  };
  auto contract = [&](std::vector<Layer>& own, Arena& arena) {
    for (Layer& layer : own) layer.contract_input(table, arena), layer.contract_output(table, arena);
  };
  std::atomic<int> status{ZK_OK};
  auto whole_query = [&](std::vector<Layer>& own, int64_t query) {
    float* memory = scratch<kWorkOfThread>(work_floats + group_floats);
    if (!memory) return status.store(ZK_NO_MEMORY);
    Arena arena{memory + work_floats};
    if (const int error = gather(own, query, arena)) return status.store(error);
    contract(own, arena);
    run(own, rows_of(query, 0, io.rows), sizes, memory);
  };

  const int64_t total = io.queries * (contraction + io.rows * row_work);
  if (threads <= 1 || total < kSerialWork) {
    for (int64_t query = 0; query < io.queries; ++query) whole_query(layers, query);
    return status;
  }
  if (io.queries >= 2 * threads || (io.queries >= threads && io.queries % threads == 0)) {
    parallel_for(io.queries, threads, [&](int64_t query) {
      std::vector<Layer> own = layers;
      whole_query(own, query);
    });
    return status;
  }
  // Fewer queries than threads: first the groups of all queries (left and right halves on threads of their
  // own where that is worth it), then ranges of rows.
  float* memory = scratch<kGroupsOfCall>(io.queries * group_floats);
  if (!memory) return ZK_NO_MEMORY;
  std::vector<std::vector<Layer>> of_query(static_cast<size_t>(io.queries), layers);
  std::vector<Arena> arenas;
  for (int64_t query = 0; query < io.queries; ++query) arenas.push_back(Arena{memory + query * group_floats});
  const int64_t n_layers = static_cast<int64_t>(layers.size());
  for (int64_t query = 0; query < io.queries; ++query) {
    const auto q = static_cast<size_t>(query);
    if (const int error = gather(of_query[q], query, arenas[q])) return error;
  }
  struct Task {
    Layer* layer;
    bool input;
    Arena arena;
  };
  std::vector<Task> tasks;
  for (int64_t i = 0; i < io.queries * n_layers; ++i) {
    const auto q = static_cast<size_t>(i / n_layers);
    Layer& layer = of_query[q][static_cast<size_t>(i % n_layers)];
    for (const bool input : {true, false}) {
      tasks.push_back({&layer, input, arenas[q]});
      Arena size{nullptr};
      Layer counted = layer;
      input ? counted.contract_input(table, size) : counted.contract_output(table, size);
      arenas[q].used += size.used;
    }
  }
  parallel_for(
      static_cast<int64_t>(tasks.size()), io.queries * contraction < kSerialWork ? 1 : threads, [&](int64_t i) {
        Task& task = tasks[static_cast<size_t>(i)];
        task.input ? task.layer->contract_input(table, task.arena) : task.layer->contract_output(table, task.arena);
      });
  // ranges of whole tiles, four a thread at most, none shorter than a quarter of kSerialWork
  const int64_t least = (kSerialWork / 4 / row_work / kTileRows + 1) * kTileRows;
  const int64_t wanted = (io.queries * io.rows / (4 * threads) / kTileRows + 1) * kTileRows;
  const int64_t range = std::max(least, wanted), ranges = (io.rows + range - 1) / range;
  parallel_for(io.queries * ranges, threads, [&](int64_t item) {
    const int64_t query = item / ranges, first = item % ranges * range;
    float* work = scratch<kWorkOfThread>(work_floats);
    if (!work) return status.store(ZK_NO_MEMORY);
    run(of_query[static_cast<size_t>(query)], rows_of(query, first, std::min(range, io.rows - first)), sizes, work);
  });
  return status;
}

int check(const Tables* tables, const zk_tt_rows& io) {
  if (!tables) return ZK_BAD_ISA;
  const bool known = io.x_dtype >= ZK_F32 && io.x_dtype <= ZK_F16 && (io.y_dtype == io.x_dtype || io.y_dtype == ZK_F32);
  return known ? ZK_OK : ZK_BAD_DTYPE;
}

}  // namespace
}  // namespace zk

extern "C" int zk_cpu_tt_halves(const zk_tt* layer, float* left, float* right, int64_t queries, int isa, int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (!tables) return ZK_BAD_ISA;
  zk_tt whole = *layer;
  whole.in_cut = 0, whole.out_cut = whole.split;
  Layer counted(whole);
  const TtShape& g = counted.ready.shape;
  const int64_t work = queries * counted.contraction_work();
  std::atomic<int> status{ZK_OK};
  parallel_for(2 * queries, work < kSerialWork ? 1 : threads, [&](int64_t item) {
    const int64_t query = item / 2;
    const bool input = item % 2 == 0;
    Layer own(whole);
    Arena size{nullptr};
    input ? own.contract_input(tables->tt, size) : own.contract_output(tables->tt, size);
    Arena arena{scratch<kWorkOfThread>(size.used + 16)};
    if (!arena.base) return status.store(ZK_NO_MEMORY);
    own.select(query);
    input ? own.contract_input(tables->tt, arena) : own.contract_output(tables->tt, arena);
    const int64_t n = g.rank * (input ? g.in : g.out);
    std::memcpy((input ? left : right) + query * n, input ? own.ready.middle : own.ready.right,
                static_cast<size_t>(n) * sizeof(float));
  });
  return status;
}

extern "C" int zk_cpu_tt_linear(const zk_tt* layer, const zk_tt_rows* rows, const zk_tt_noise* noise, int isa,
                                int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (const int error = check(tables, *rows)) return error;
  const TtLinear kernel = tables->tt.linear[rows->x_dtype][rows->y_dtype != rows->x_dtype];
  return run_call(tables->tt, {Layer(*layer)}, *rows, noise, isa, threads,
                  [=](const std::vector<Layer>& layers, const TtRows& io, const TtWork& sizes, float* work) {
                    kernel(layers[0].ready, io, sizes, work);
                  });
}

extern "C" int zk_cpu_tt_adapter(const zk_tt* down, const zk_tt* up, float scale, int activation,
                                 const zk_tt_rows* rows, const zk_tt_noise* noise, int isa, int threads) {
  using namespace zk;
  const Tables* tables = tables_of(isa);
  if (const int error = check(tables, *rows)) return error;
  const TtAdapter kernel = tables->tt.adapter[rows->x_dtype][rows->y_dtype != rows->x_dtype];
  return run_call(tables->tt, {Layer(*down), Layer(*up)}, *rows, noise, isa, threads,
                  [=](const std::vector<Layer>& layers, const TtRows& io, const TtWork& sizes, float* work) {
                    kernel(layers[0].ready, layers[1].ready, scale, activation, io, sizes, work);
                  });
}
