// The tensor-train kernels on the host: the same headers that nvcc compiles, every block of the two
// launches in turn. The threads of a block are coroutines that a barrier hands on, in ascending or
// descending order, so that a result which depends on the order, a missing barrier, shows. A block in
// which some threads wait at a barrier and others have ended is an error.
#include <ucontext.h>

#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "../../csrc/cuda/tt_call.cuh"
#include "../../csrc/cuda/tt_groups_body.cuh"

namespace {

using namespace zk::cuda;

constexpr size_t kStack = 64 * 1024;
constexpr uint32_t kAbove = 1024;  // floats of NaN on both sides of a block's memory

class Threads {
 public:
  Threads() : stacks_(new char[kThreads * kStack]), contexts_(kThreads), ended_(kThreads) {}

  // Runs body(thread) for all threads of a block.
  template <class Body>
  void run(bool descending, const Body& body) {
    static const Body* current_body;
    current_body = &body;
    for (uint32_t i = 0; i < kThreads; ++i) {
      getcontext(&contexts_[i]);
      contexts_[i].uc_stack.ss_sp = stacks_.get() + i * kStack;
      contexts_[i].uc_stack.ss_size = kStack;
      contexts_[i].uc_link = &main_;
      ended_[i] = false;
      makecontext(&contexts_[i], reinterpret_cast<void (*)()>(+[](Threads* self, uint32_t thread) {
        (*current_body)(thread);
        self->ended_[thread] = true;
      }),
                  2, this, i);
    }
    for (uint32_t alive = kThreads; alive > 0;) {
      uint32_t ended = 0;
      for (uint32_t n = 0; n < kThreads; ++n) {
        current_ = descending ? kThreads - 1 - n : n;
        swapcontext(&main_, &contexts_[current_]);
        ended += ended_[current_];
      }
      if (ended != 0 && ended != kThreads) std::abort();  // a barrier that not all threads reach
      alive = kThreads - ended;
    }
  }
  void sync() { swapcontext(&contexts_[current_], &main_); }

 private:
  std::unique_ptr<char[]> stacks_;
  std::vector<ucontext_t> contexts_;
  std::vector<bool> ended_;
  ucontext_t main_;
  uint32_t current_ = 0;
};

Threads threads;
bool descending;

struct Host {
  uint32_t thread;
  void sync() const { threads.sync(); }
};

int groups_on_host(const TtGroups& p, uint32_t blocks) {
  for (uint32_t n = 0; n < blocks; ++n) {
    const uint32_t block = descending ? blocks - 1 - n : n;
    threads.run(descending, [&](uint32_t thread) { run_groups(p, block, Host{thread}); });
  }
  return ZK_OK;
}

template <class F, bool kShared>
int rows_on_host(const TtRowsCall& p, uint32_t blocks) {
  struct alignas(16) Quad16 {
    float f[4];
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<Quad16> room(static_cast<size_t>(p.floats) / 4 + 2 * kAbove / 4);
  for (uint32_t block = 0; block < blocks; ++block) {
    float* begin = room[0].f;
    std::fill(begin, begin + room.size() * 4, nan);
    float* memory = kShared ? begin + kAbove : p.scratch + block * p.floats;
    threads.run(descending, [&](uint32_t thread) { run_rows<F, kShared>(p, block, blocks, memory, Host{thread}); });
    for (uint32_t i = 0; i < kAbove; ++i)
      if (begin[i] == begin[i] || begin[room.size() * 4 - 1 - i] == begin[room.size() * 4 - 1 - i]) return -1;
  }
  return ZK_OK;
}

int rows_of_any(const TtRowsCall& p, uint32_t blocks) {
  if (p.scratch) {
    if (p.x_dtype == ZK_BF16) return rows_on_host<BF16, false>(p, blocks);
    return p.x_dtype == ZK_F16 ? rows_on_host<F16, false>(p, blocks) : rows_on_host<F32, false>(p, blocks);
  }
  if (p.x_dtype == ZK_BF16) return rows_on_host<BF16, true>(p, blocks);
  return p.x_dtype == ZK_F16 ? rows_on_host<F16, true>(p, blocks) : rows_on_host<F32, true>(p, blocks);
}

struct Workspace {
  explicit Workspace(int64_t floats) : room(static_cast<size_t>(floats) + 4, std::numeric_limits<float>::quiet_NaN()) {}
  float* data() {
    const auto at = reinterpret_cast<uintptr_t>(room.data());
    return room.data() + (16 - at % 16) % 16 / 4;
  }
  std::vector<float> room;
};

}  // namespace

// What the last call chose: rows of a tile, elements moved at once, bytes of a kept row, whether a tile
// lay in the workspace, floats of a tile, blocks of the groups' launch.
extern "C" int64_t chosen[7], fill;
int64_t chosen[7], fill = kTtFill;  // fill: tiles before they grow

extern "C" int emulated_tt_halves(const zk_tt* layer, float* left, float* right, int64_t queries, int backwards) {
  descending = backwards != 0;
  Workspace workspace(halves_floats(*layer, queries));
  return run_tt_halves(*layer, left, right, queries, workspace.data(), [&](TtGroups& p, uint32_t blocks) {
    chosen[6] = blocks;
    return groups_on_host(p, blocks);
  });
}

extern "C" int emulated_tt_rows(const zk_tt* layers, int n_layers, float scale, int activation, const zk_tt_rows* io,
                                const zk_tt_noise* noise, int backwards) {
  descending = backwards != 0;
  Workspace workspace(TtCallPlan(layers, n_layers, *io, noise != nullptr, nullptr, fill).workspace_floats());
  chosen[6] = 0;
  return run_tt(
      layers, n_layers, scale, activation, *io, noise, workspace.data(),
      [&](TtGroups& p, uint32_t blocks) {
        chosen[6] = blocks;
        return groups_on_host(p, blocks);
      },
      [&](TtRowsCall& p, uint32_t blocks) {
        const int64_t now[] = {p.tile, p.x_vector, p.y_vector, p.keep_stride, p.scratch != nullptr, p.floats};
        std::copy(now, now + 6, chosen);
        return rows_of_any(p, blocks);
      },
      fill);
}
