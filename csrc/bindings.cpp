// Python bindings of zokern.h: pointers in, status out, the GIL released while kernels run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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

// Gathers the arguments of a move, then runs `launch` on them without the GIL.
template <class Launch>
void perturb(const std::vector<TensorTuple>& tuples, const std::vector<uint64_t>& seeds,
             const std::vector<float>& scales, float decay, uint32_t lane, int distribution, int rounding,
             const Launch& launch) {
  if (seeds.size() != scales.size()) throw std::invalid_argument("seeds and scales must have the same length");
  if (rounding == ZK_STOCHASTIC && seeds.empty()) throw std::invalid_argument("stochastic rounding needs a seed");
  std::vector<zk_tensor> tensors;
  tensors.reserve(tuples.size());
  for (const auto& tuple : tuples) tensors.push_back(to_tensor(tuple));
  const zk_move move{seeds.data(), scales.data(), static_cast<int64_t>(seeds.size()), decay, lane,
                     distribution, rounding};
  int status;
  {
    py::gil_scoped_release released;
    status = launch(tensors.data(), static_cast<int64_t>(tensors.size()), &move);
  }
  check(status);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "zokern's native kernels";
  m.def("cpu_has_isa", &zk_cpu_has_isa);
  m.def("cpu_best_isa", &zk_cpu_best_isa);
  m.def("cuda_device_count", &zk_cuda_device_count);
  m.def("cuda_last_error", &zk_cuda_last_error);
  m.def("cpu_perturb", [](const std::vector<TensorTuple>& tensors, const std::vector<uint64_t>& seeds,
                          const std::vector<float>& scales, float decay, uint32_t lane, int distribution, int rounding,
                          int isa, int threads) {
    perturb(
        tensors, seeds, scales, decay, lane, distribution, rounding,
        [=](const zk_tensor* t, int64_t n, const zk_move* move) { return zk_cpu_perturb(t, n, move, isa, threads); });
  });
  m.def("cpu_normal_tile", [](uint64_t seed, uint32_t stream, uint32_t lane, uint64_t tile, int isa) {
    std::vector<float> out(256);
    check(zk_cpu_normal_tile(out.data(), seed, stream, lane, tile, isa));
    return out;
  });
  m.def("cuda_perturb", [](const std::vector<TensorTuple>& tensors, const std::vector<uint64_t>& seeds,
                           const std::vector<float>& scales, float decay, uint32_t lane, int distribution, int rounding,
                           int device, uintptr_t stream) {
    perturb(tensors, seeds, scales, decay, lane, distribution, rounding,
            [=](const zk_tensor* t, int64_t n, const zk_move* move) {
              return zk_cuda_perturb(t, n, move, device, reinterpret_cast<void*>(stream));
            });
  });
}
