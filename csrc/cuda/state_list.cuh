// Lists of tensors with state (or masks): the entries of tensor_list.cuh and more memories beside them.
//
// Units, tiles and chunks are those of tensor_list.cuh. The planner is host code without any CUDA call.
#pragma once

#include "tensor_list.cuh"

namespace zk::cuda {

constexpr int kMaxStates = 3;

struct StateDense : Dense {
  char* states[kMaxStates];  // of the first unit, as src and dst
  uint64_t limit;            // masked moves without masks: bits of the threshold in the tensor's dtype
};

struct StateStrided : StateDense {
  int32_t ndim;
  int64_t sizes[ZK_MAX_DIMS];
  int64_t strides[2 + kMaxStates][ZK_MAX_DIMS];  // of src, dst, states
};

struct ListHeader {
  uint32_t chunks;
  uint32_t tensors;
  uint32_t tiles;   // a chunk
  uint32_t states;  // how many each tensor has
};

template <class Rule, class Entry, int N>
struct StateParams : ListHeader {
  using entry_type = Entry;
  Rule rule;
  Entry entries[N];
};

constexpr int kStateDense = 380;
constexpr int kStateStrided = 64;
template <class Rule>
using DenseStates = StateParams<Rule, StateDense, kStateDense>;
template <class Rule>
using StridedStates = StateParams<Rule, StateStrided, kStateStrided>;

inline StateDense state_entry(const zk_tensor& tensor, const zk_state* states, int count, int size, bool shifted) {
  StateDense entry{};
  static_cast<Dense&>(entry) = dense_entry(tensor, shifted);
  const uintptr_t head = shifted ? entry.head : 0;
  for (int s = 0; s < count; ++s) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(states[s].data) - head * static_cast<uintptr_t>(size);
    entry.states[s] = reinterpret_cast<char*>(start);
    entry.vector = entry.vector && start % static_cast<uintptr_t>(size == 1 ? 8 : 16) == 0;
  }
  return entry;
}

inline void set_state_layout(const zk_tensor& tensor, const zk_state* states, int count, StateStrided& entry) {
  entry.ndim = tensor.ndim > 0 ? tensor.ndim : 1;
  for (int d = 0; d < entry.ndim; ++d) {
    const bool dense = tensor.ndim == 0;
    entry.sizes[d] = dense ? tensor.numel : tensor.sizes[d];
    entry.strides[0][d] = dense ? 1 : tensor.src_strides[d];
    entry.strides[1][d] = dense ? 1 : tensor.dst_strides[d];
    for (int s = 0; s < count; ++s) entry.strides[2 + s][d] = dense ? 1 : states[s].strides[d];
  }
}

// Cuts the list into launches: `launch(params)` for each, dense fp32, bf16 and fp16 tensors first. Strided
// and fp64 tensors go to the general kernel. `states`: `count` for each tensor, of `size` bytes an element.
// limit(i): what an entry holds in that place.
template <class Rule, class Limit, class Launch>
inline int plan_states(const zk_tensor* tensors, const zk_state* states, int count, int size, int64_t n_tensors,
                       const Rule& rule, const Limit& limit, Launch&& launch) {
  std::vector<int64_t> dense, general;
  for (int64_t i = 0; i < n_tensors; ++i) {
    const zk_tensor& tensor = tensors[i];
    if (tensor.dtype < ZK_F32 || tensor.dtype > ZK_F64) return ZK_BAD_DTYPE;
    if (tensor.numel <= 0) continue;
    (tensor.ndim == 0 && tensor.dtype != ZK_F64 ? dense : general).push_back(i);
  }
  const auto send = [&](auto params, const std::vector<int64_t>& chosen, size_t capacity) -> int {
    params.rule = rule;
    params.states = static_cast<uint32_t>(count);
    for (size_t first = 0; first < chosen.size(); first += capacity) {
      params.tensors = static_cast<uint32_t>(std::min(chosen.size() - first, capacity));
      for (uint32_t k = 0; k < params.tensors; ++k) {
        const int64_t i = chosen[first + k];
        const zk_state* mine = states + i * count;
        auto& entry = params.entries[k];
        entry = {};
        if constexpr (std::is_same_v<typename decltype(params)::entry_type, StateStrided>) {
          static_cast<StateDense&>(entry) = state_entry(tensors[i], mine, count, size, false);
          set_state_layout(tensors[i], mine, count, entry);
        } else {
          entry = state_entry(tensors[i], mine, count, size, true);
        }
        entry.limit = limit(i);
      }
      if (const int status = launch(params); status != ZK_OK) return status;
    }
    return ZK_OK;
  };
  if (const int status = send(DenseStates<Rule>{}, dense, kStateDense); status != ZK_OK) return status;
  return send(StridedStates<Rule>{}, general, kStateStrided);
}

}  // namespace zk::cuda
