// The CUDA kernels with state on the host, as emulate.cpp does for perturb: the same headers that nvcc
// compiles, every block and thread of the grid in turn.
#include <vector>

#include "../../csrc/cuda/adam_body.cuh"
#include "../../csrc/cuda/adamu_body.cuh"
#include "../../csrc/cuda/masked_body.cuh"

namespace {

using namespace zk::cuda;

template <class P>
int run_grid(P& params, uint32_t resident) {
  number_chunks(params, resident);
  const uint32_t blocks = std::min(params.chunks, resident);
  for (uint32_t block = 0; block < blocks; ++block)
    for (uint32_t thread = 0; thread < kThreads; ++thread) {
      if constexpr (std::is_same_v<typename P::entry_type, StateStrided>)
        run_general_states(params, block, blocks, thread);
      else
        run_dense_states(params, block, blocks, thread);
    }
  return ZK_OK;
}

// The terms, when the parameters cannot hold them: what the launcher puts in device memory.
template <class Move, class MakeTerm>
std::vector<Term> overflow(const Move& move, const MakeTerm& term) {
  std::vector<Term> more;
  if (move.count > kParamTerms)
    for (int64_t k = 0; k < move.count; ++k) more.push_back(term(k));
  return more;
}

}  // namespace

extern "C" int emulated_adam(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adam* move,
                             int resident) {
  const auto more = overflow(*move, [&](int64_t k) { return adam_term(*move, k); });
  return plan_adam(tensors, states, n_tensors, *move, more.empty() ? nullptr : more.data(),
                   [&](auto& p) { return run_grid(p, static_cast<uint32_t>(resident)); });
}

extern "C" int emulated_adamu(const zk_tensor* tensors, const zk_state* states, int64_t n_tensors, const zk_adamu* move,
                              int resident) {
  return plan_adamu(tensors, states, n_tensors, *move,
                    [&](auto& p) { return run_grid(p, static_cast<uint32_t>(resident)); });
}

extern "C" int emulated_masked(const zk_tensor* tensors, const zk_state* masks, const float* thresholds,
                               int64_t n_tensors, const zk_move* move, int resident) {
  const auto more = overflow(*move, [&](int64_t k) { return make_term(move->seeds[k], move->scales[k]); });
  return plan_masked(tensors, masks, thresholds, n_tensors, *move, more.empty() ? nullptr : more.data(),
                     [&](auto& p) { return run_grid(p, static_cast<uint32_t>(resident)); });
}
