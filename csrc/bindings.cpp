// Python bindings of zokern.h: pointers in, status out, the GIL released while kernels run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "zokern.h"

namespace py = pybind11;

namespace {

// (src, dst, numel, offset, stream, dtype, sizes, src_strides, dst_strides); no sizes: dense row-major
using TensorTuple = std::tuple<uintptr_t, uintptr_t, int64_t, uint64_t, uint32_t, int32_t, std::vector<int64_t>,
                               std::vector<int64_t>, std::vector<int64_t>>;

zk_tensor to_tensor(const TensorTuple& tuple) {
  zk_tensor t{};
  const auto& [src, dst, numel, offset, stream, dtype, sizes, src_strides, dst_strides] = tuple;
  if (sizes.size() > ZK_MAX_DIMS || src_strides.size() != sizes.size() || dst_strides.size() != sizes.size()) {
    throw std::invalid_argument("sizes and strides must agree and have at most 8 dimensions");
  }
  t.src = reinterpret_cast<const void*>(src);
  t.dst = reinterpret_cast<void*>(dst);
  t.numel = numel;
  t.offset = offset;
  t.stream = stream;
  t.dtype = dtype;
  t.ndim = static_cast<int32_t>(sizes.size());
  for (size_t d = 0; d < sizes.size(); ++d) {
    t.sizes[d] = sizes[d];
    t.src_strides[d] = src_strides[d];
    t.dst_strides[d] = dst_strides[d];
  }
  return t;
}

void check(int status) {
  if (status == ZK_OK) return;
  std::string message = zk_status_string(status);
  if (status == ZK_CUDA_ERROR) message += std::string(": ") + zk_cuda_last_error();
  throw std::runtime_error(message);
}

std::vector<zk_tensor> to_tensors(const std::vector<TensorTuple>& tuples) {
  std::vector<zk_tensor> tensors;
  tensors.reserve(tuples.size());
  for (const auto& tuple : tuples) tensors.push_back(to_tensor(tuple));
  return tensors;
}

// What perturb takes; it can be kept for the next call.
struct TensorList {
  std::vector<zk_tensor> tensors;
  explicit TensorList(const std::vector<TensorTuple>& tuples) : tensors(to_tensors(tuples)) {}
};

// (data, strides), `count` for each tensor; no strides: dense as the tensor is
using StateTuple = std::tuple<uintptr_t, std::vector<int64_t>>;

std::vector<zk_state> to_states(const std::vector<StateTuple>& tuples, const std::vector<zk_tensor>& tensors,
                                size_t count) {
  if (tuples.size() != count * tensors.size()) throw std::invalid_argument("states and tensors do not match");
  std::vector<zk_state> states;
  states.reserve(tuples.size());
  for (const auto& [data, strides] : tuples) {
    if (strides.size() != static_cast<size_t>(tensors[states.size() / count].ndim)) {
      throw std::invalid_argument("a state's strides do not match its tensor");
    }
    zk_state state{reinterpret_cast<void*>(data), {}};
    std::copy(strides.begin(), strides.end(), state.strides);
    states.push_back(state);
  }
  return states;
}

// (seeds, grads, displacements, decay, rule, variant, distribution, rounding)
using AdamTuple =
    std::tuple<std::vector<uint64_t>, std::vector<float>, std::vector<float>, float, std::vector<float>, int, int, int>;

zk_adam to_adam(const AdamTuple& tuple) {
  const auto& [seeds, grads, displacements, decay, r, variant, distribution, rounding] = tuple;
  if (seeds.empty() || grads.size() != seeds.size() || displacements.size() != seeds.size() || r.size() != 8) {
    throw std::invalid_argument("seeds, grads, displacements and the rule do not match");
  }
  const zk_adam_rule rule{r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]};
  return {seeds.data(), grads.data(), displacements.data(), static_cast<int64_t>(seeds.size()), decay, rule, variant,
          distribution, rounding};
}

// (seed, scale, displacement, decay, rule, update, rounding)
using AdamuTuple = std::tuple<uint64_t, float, float, float, std::vector<float>, bool, int>;

zk_adamu to_adamu(const AdamuTuple& tuple) {
  const auto& [seed, scale, displacement, decay, r, update, rounding] = tuple;
  if (r.size() != 8) throw std::invalid_argument("the rule has 8 constants");
  return {seed, scale, displacement, decay, {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]}, update, rounding};
}

// (seeds, scales, decay, distribution, rounding), and a mask or a threshold for each tensor
using MoveTuple = std::tuple<std::vector<uint64_t>, std::vector<float>, float, int, int>;

zk_move to_move(const MoveTuple& tuple) {
  const auto& [seeds, scales, decay, distribution, rounding] = tuple;
  if (seeds.size() != scales.size()) throw std::invalid_argument("seeds and scales must have the same length");
  if (rounding == ZK_STOCHASTIC && seeds.empty()) throw std::invalid_argument("stochastic rounding needs a seed");
  return {seeds.data(), scales.data(), static_cast<int64_t>(seeds.size()), decay, 0, distribution, rounding};
}

template <class Launch>
void without_gil(const Launch& launch) {
  int status;
  {
    py::gil_scoped_release released;
    status = launch();
  }
  check(status);
}

// launch(tensors, states, how many tensors) without the GIL; `count` states a tensor
template <class Launch>
void with_states(const std::vector<TensorTuple>& tuples, const std::vector<StateTuple>& state_tuples, size_t count,
                 const Launch& launch) {
  const std::vector<zk_tensor> tensors = to_tensors(tuples);
  const std::vector<zk_state> states = to_states(state_tuples, tensors, count);
  without_gil([&] { return launch(tensors.data(), states.data(), static_cast<int64_t>(tensors.size())); });
}

template <class Launch>
void adam(const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& states, const AdamTuple& tuple,
          const Launch& launch) {
  const zk_adam move = to_adam(tuple);
  with_states(tensors, states, move.variant == ZK_ADAMM ? 3 : 2,
              [&](const zk_tensor* t, const zk_state* s, int64_t n) { return launch(t, s, n, &move); });
}

template <class Launch>
void adamu(const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& states, const AdamuTuple& tuple,
           const Launch& launch) {
  const zk_adamu move = to_adamu(tuple);
  with_states(tensors, states, 1,
              [&](const zk_tensor* t, const zk_state* s, int64_t n) { return launch(t, s, n, &move); });
}

template <class Launch>
void perturb_masked(const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& masks,
                    const std::vector<float>& thresholds, const MoveTuple& tuple, const Launch& launch) {
  const zk_move move = to_move(tuple);
  if (masks.empty() && thresholds.size() != tensors.size()) {
    throw std::invalid_argument("thresholds and tensors do not match");
  }
  with_states(tensors, masks, masks.empty() ? 0 : 1, [&](const zk_tensor* t, const zk_state* s, int64_t n) {
    return launch(t, masks.empty() ? nullptr : s, thresholds.data(), n, &move);
  });
}

// Gathers the arguments of a move, then runs `launch` on them without the GIL.
template <class Launch>
void perturb(const TensorList& list, const std::vector<uint64_t>& seeds, const std::vector<float>& scales, float decay,
             uint32_t lane, int distribution, int rounding, const Launch& launch) {
  if (seeds.size() != scales.size()) throw std::invalid_argument("seeds and scales must have the same length");
  if (rounding == ZK_STOCHASTIC && seeds.empty()) throw std::invalid_argument("stochastic rounding needs a seed");
  const std::vector<zk_tensor>& tensors = list.tensors;
  const zk_move move{seeds.data(), scales.data(), static_cast<int64_t>(seeds.size()), decay, lane,
                     distribution, rounding};
  without_gil([&] { return launch(tensors.data(), static_cast<int64_t>(tensors.size()), &move); });
}

}  // namespace

void bind_tt(py::module_& m);  // bindings_tt.cpp

PYBIND11_MODULE(_C, m) {
  bind_tt(m);
  m.doc() = "zokern's native kernels";
  m.def("cpu_has_isa", &zk_cpu_has_isa);
  m.def("cpu_best_isa", &zk_cpu_best_isa);
  m.def("cpu_use_openmp", [](uintptr_t gomp_parallel) { zk_cpu_use_openmp(reinterpret_cast<void*>(gomp_parallel)); });
  m.def("cuda_device_count", &zk_cuda_device_count);
  m.def("cuda_last_error", &zk_cuda_last_error);
  py::class_<TensorList>(m, "TensorList").def(py::init<const std::vector<TensorTuple>&>());
  m.def("cpu_perturb", [](const TensorList& tensors, const std::vector<uint64_t>& seeds,
                          const std::vector<float>& scales, float decay, uint32_t lane, int distribution, int rounding,
                          int isa, int threads) {
    perturb(
        tensors, seeds, scales, decay, lane, distribution, rounding,
        [=](const zk_tensor* t, int64_t n, const zk_move* move) { return zk_cpu_perturb(t, n, move, isa, threads); });
  });
  m.def("cpu_perturb_masked", [](const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& masks,
                                 const std::vector<float>& thresholds, const MoveTuple& move, int isa, int threads) {
    perturb_masked(tensors, masks, thresholds, move,
                   [=](auto... a) { return zk_cpu_perturb_masked(a..., isa, threads); });
  });
  m.def("cpu_adam", [](const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& states,
                       const AdamTuple& move, int isa, int threads) {
    adam(tensors, states, move, [=](auto... a) { return zk_cpu_adam(a..., isa, threads); });
  });
  m.def("cpu_adamu", [](const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& states,
                        const AdamuTuple& move, int isa, int threads) {
    adamu(tensors, states, move, [=](auto... a) { return zk_cpu_adamu(a..., isa, threads); });
  });
  m.def("cuda_perturb_masked", [](const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& masks,
                                  const std::vector<float>& thresholds, const MoveTuple& move, int device,
                                  uintptr_t stream) {
    perturb_masked(tensors, masks, thresholds, move,
                   [=](auto... a) { return zk_cuda_perturb_masked(a..., device, reinterpret_cast<void*>(stream)); });
  });
  m.def("cuda_adam", [](const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& states,
                        const AdamTuple& move, int device, uintptr_t stream) {
    adam(tensors, states, move, [=](auto... a) { return zk_cuda_adam(a..., device, reinterpret_cast<void*>(stream)); });
  });
  m.def("cuda_adamu", [](const std::vector<TensorTuple>& tensors, const std::vector<StateTuple>& states,
                         const AdamuTuple& move, int device, uintptr_t stream) {
    adamu(tensors, states, move,
          [=](auto... a) { return zk_cuda_adamu(a..., device, reinterpret_cast<void*>(stream)); });
  });
  m.def("cpu_normal_tile", [](uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa) {
    std::vector<float> out(256);
    check(zk_cpu_normal_tile(out.data(), seed, stream, lane, tile, isa));
    return out;
  });
  m.def("cuda_perturb",
        [](const TensorList& tensors, const std::vector<uint64_t>& seeds, const std::vector<float>& scales, float decay,
           uint32_t lane, int distribution, int rounding, int device, uintptr_t stream) {
          perturb(tensors, seeds, scales, decay, lane, distribution, rounding,
                  [=](const zk_tensor* t, int64_t n, const zk_move* move) {
                    return zk_cuda_perturb(t, n, move, device, reinterpret_cast<void*>(stream));
                  });
        });
}
