// The CUDA kernels' thread body and launch plan on the host: every block and thread of the grid in turn.
// Compiled by tests/cuda/conftest.py; the same headers that nvcc compiles, without CUDA.
#include <vector>

#include "../../csrc/cuda/perturb_body.cuh"

namespace {

using namespace zk::cuda;

template <class P>
void run_grid(P& params, uint32_t resident) {
  number_chunks(params, resident);
  const uint32_t blocks = std::min(params.chunks, resident);
  for (uint32_t block = 0; block < blocks; ++block)
    for (uint32_t thread = 0; thread < kThreads; ++thread) {
      if constexpr (std::is_same_v<P, ManyStrided>) {
        run_general(params, block, blocks, thread);
      } else {
        const Variant v = choose(params);
        if (v.single)
          run_dense<true, false, false>(params, block, blocks, thread);
        else if (v.rademacher && v.stochastic)
          run_dense<false, true, true>(params, block, blocks, thread);
        else if (v.rademacher)
          run_dense<false, true, false>(params, block, blocks, thread);
        else if (v.stochastic)
          run_dense<false, false, true>(params, block, blocks, thread);
        else
          run_dense<false, false, false>(params, block, blocks, thread);
      }
    }
}

}  // namespace

// As zk_cuda_perturb on a device that holds `resident` blocks. Counts launches and those of the
// single-term kernel.
extern "C" int emulated_perturb(const zk_tensor* tensors, int64_t n_tensors, const zk_move* move, int resident,
                                int* launches, int* single) {
  std::vector<Term> more;
  if (move->count > kParamTerms)
    for (int64_t k = 0; k < move->count; ++k) more.push_back(make_term(move->seeds[k], move->scales[k]));
  *launches = *single = 0;
  return plan(tensors, n_tensors, *move, more.empty() ? nullptr : more.data(), [&](auto& params) {
    ++*launches;
    if constexpr (!std::is_same_v<std::decay_t<decltype(params)>, ManyStrided>) *single += choose(params).single;
    run_grid(params, static_cast<uint32_t>(resident));
    return ZK_OK;
  });
}

// The eight normals of one counter, by the path the single-term kernel takes.
extern "C" void emulated_block(const uint32_t counter[4], uint64_t seed, uint32_t words[4], float z[8]) {
  zk_move move{};
  const float scale = 1.0f;
  move.seeds = &seed;
  move.scales = &scale;
  move.count = 1;
  Header header{};
  set_move(move, nullptr, header);
  philox_in_row(philox_row(header.keys, counter[1], counter[2], counter[3]), header.keys, counter[0], words);
  zk::normal_block(words, z);
}

// The 2^23 radii of the stream.
extern "C" void all_radii(float* radii) {
  for (uint32_t k = 0; k < 1u << 23; ++k) radii[k] = zk::radius(k);
}
