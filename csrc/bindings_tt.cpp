// Python bindings of the tensor-train functions of zokern.h.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "zokern.h"

namespace py = pybind11;

namespace {

void check(int status) {
  if (status == ZK_OK) return;
  std::string message = zk_status_string(status);
  if (status == ZK_CUDA_ERROR) message += std::string(": ") + zk_cuda_last_error();
  throw std::runtime_error(message);
}

// modes, ranks, split, in_cut, out_cut, cores, core strides, bias, bias stride, offsets
using LayerTuple = std::tuple<std::vector<int64_t>, std::vector<int64_t>, int32_t, int32_t, int32_t,
                              std::vector<uintptr_t>, std::vector<int64_t>, uintptr_t, int64_t, std::vector<uint64_t>>;

struct Layer {
  std::vector<int64_t> modes, ranks, strides;
  std::vector<const float*> cores;
  std::vector<uint64_t> offsets;
  const float* bias;
  int64_t bias_stride, in = 1, out = 1;
  int32_t split, in_cut, out_cut;

  explicit Layer(const LayerTuple& tuple) {
    std::vector<uintptr_t> pointers;
    uintptr_t bias_pointer;
    std::tie(modes, ranks, split, in_cut, out_cut, pointers, strides, bias_pointer, bias_stride, offsets) = tuple;
    const size_t n = modes.size();
    if (ranks.size() != n + 1 || pointers.size() != n || strides.size() != n ||
        (!offsets.empty() && offsets.size() < n + (bias_pointer != 0))) {
      throw std::invalid_argument("modes, ranks, cores, strides and offsets must agree");
    }
    if (!(0 <= in_cut && in_cut < split && split <= out_cut && out_cut < static_cast<int32_t>(n))) {
      throw std::invalid_argument("the cuts must satisfy 0 <= in_cut < split <= out_cut < number of cores");
    }
    for (const uintptr_t p : pointers) cores.push_back(reinterpret_cast<const float*>(p));
    bias = reinterpret_cast<const float*>(bias_pointer);
    for (size_t i = 0; i < n; ++i) (static_cast<int32_t>(i) < split ? in : out) *= modes[i];
  }
  zk_tt view() const {
    return {static_cast<int32_t>(modes.size()),
            split,
            in_cut,
            out_cut,
            modes.data(),
            ranks.data(),
            cores.data(),
            strides.data(),
            offsets.data(),
            bias,
            bias_stride};
  }
};

// One prepared call: shapes, plan and pointers of a linear layer or an adapter, on the CPU.
class TtCall {
 public:
  TtCall(const std::vector<LayerTuple>& layers, float scale, int activation, int isa)
      : scale_(scale), activation_(activation), isa_(isa) {
    if (layers.empty() || layers.size() > 2) throw std::invalid_argument("one layer, or two for an adapter");
    for (const auto& layer : layers) layers_.emplace_back(layer);
  }
  // Dense rows.
  void run(uintptr_t x, uintptr_t y, int64_t rows, int dtype, int threads) const {
    const zk_tt_rows io{reinterpret_cast<const void*>(x),
                        reinterpret_cast<void*>(y),
                        rows,
                        1,
                        layers_.front().in,
                        layers_.back().out,
                        dtype,
                        dtype};
    launch(io, nullptr, threads);
  }
  void run_strided(uintptr_t x, uintptr_t y, int64_t rows, int64_t queries, int64_t x_stride, int64_t y_stride,
                   int x_dtype, int y_dtype, int threads, const std::vector<uint64_t>& seeds,
                   const std::vector<float>& scales, uint32_t stream, int distribution) const {
    const zk_tt_rows io{reinterpret_cast<const void*>(x),
                        reinterpret_cast<void*>(y),
                        rows,
                        queries,
                        x_stride,
                        y_stride,
                        x_dtype,
                        y_dtype};
    if (seeds.empty()) return launch(io, nullptr, threads);
    bool offsets = true;
    for (const auto& layer : layers_) offsets = offsets && !layer.offsets.empty();
    if (static_cast<int64_t>(seeds.size()) != queries || scales.size() != seeds.size() || !offsets) {
      throw std::invalid_argument("noise needs offsets, and one seed and one scale a query");
    }
    const zk_tt_noise noise{seeds.data(), scales.data(), stream, distribution};
    launch(io, &noise, threads);
  }

 private:
  void launch(const zk_tt_rows& io, const zk_tt_noise* noise, int threads) const {
    const zk_tt first = layers_[0].view();
    int status;
    {
      py::gil_scoped_release released;
      if (layers_.size() == 1) {
        status = zk_cpu_tt_linear(&first, &io, noise, isa_, threads);
      } else {
        const zk_tt second = layers_[1].view();
        status = zk_cpu_tt_adapter(&first, &second, scale_, activation_, &io, noise, isa_, threads);
      }
    }
    check(status);
  }

  std::vector<Layer> layers_;
  float scale_;
  int activation_, isa_;
};

// x, y, rows, queries, strides of x and y, their dtypes
using RowsTuple = std::tuple<uintptr_t, uintptr_t, int64_t, int64_t, int64_t, int64_t, int, int>;
// seeds, scales, stream, distribution; no seeds: no noise
using NoiseTuple = std::tuple<std::vector<uint64_t>, std::vector<float>, uint32_t, int>;

// Runs `call` with the C structures of a device call.
template <class Call>
auto on_cuda(const std::vector<LayerTuple>& tuples, const RowsTuple& rows, const NoiseTuple& moves, const Call& call) {
  if (tuples.empty() || tuples.size() > 2) throw std::invalid_argument("one layer, or two for an adapter");
  const std::vector<Layer> layers(tuples.begin(), tuples.end());
  std::vector<zk_tt> views;
  for (const Layer& layer : layers) views.push_back(layer.view());
  const auto [x, y, count, queries, x_stride, y_stride, x_dtype, y_dtype] = rows;
  const zk_tt_rows io{reinterpret_cast<const void*>(x),
                      reinterpret_cast<void*>(y),
                      count,
                      queries,
                      x_stride,
                      y_stride,
                      x_dtype,
                      y_dtype};
  const auto& [seeds, scales, stream, distribution] = moves;
  const zk_tt_noise noise{seeds.data(), scales.data(), stream, distribution};
  bool offsets = true;
  for (const Layer& layer : layers) offsets = offsets && !layer.offsets.empty();
  if (!seeds.empty() && (static_cast<int64_t>(seeds.size()) != queries || scales.size() != seeds.size() || !offsets)) {
    throw std::invalid_argument("noise needs offsets, and one seed and one scale a query");
  }
  py::gil_scoped_release released;
  return call(views.data(), static_cast<int>(views.size()), &io, seeds.empty() ? nullptr : &noise);
}

}  // namespace

void bind_tt(py::module_& m) {
  py::class_<TtCall>(m, "TtCall")
      .def(py::init<const std::vector<LayerTuple>&, float, int, int>())
      .def("run", &TtCall::run)
      .def("run_strided", &TtCall::run_strided);
  m.def("cpu_tt_halves",
        [](const LayerTuple& tuple, uintptr_t left, uintptr_t right, int64_t queries, int isa, int threads) {
          const Layer layer(tuple);
          const zk_tt view = layer.view();
          py::gil_scoped_release released;
          check(zk_cpu_tt_halves(&view, reinterpret_cast<float*>(left), reinterpret_cast<float*>(right), queries, isa,
                                 threads));
        });
  m.def("cuda_tt_halves_workspace", [](const LayerTuple& tuple, int64_t queries) {
    const Layer layer(tuple);
    const zk_tt view = layer.view();
    return zk_cuda_tt_halves_workspace(&view, queries);
  });
  m.def("cuda_tt_halves", [](const LayerTuple& tuple, uintptr_t left, uintptr_t right, int64_t queries,
                             uintptr_t workspace, int device, uintptr_t stream) {
    const Layer layer(tuple);
    const zk_tt view = layer.view();
    py::gil_scoped_release released;
    check(zk_cuda_tt_halves(&view, reinterpret_cast<float*>(left), reinterpret_cast<float*>(right), queries,
                            reinterpret_cast<float*>(workspace), device, reinterpret_cast<void*>(stream)));
  });
  m.def("cuda_tt_workspace", [](const std::vector<LayerTuple>& layers, float, int, const RowsTuple& rows,
                                const NoiseTuple& moves) {
    return on_cuda(layers, rows, moves, [](const zk_tt* views, int n, const zk_tt_rows* io, const zk_tt_noise* noise) {
      return zk_cuda_tt_workspace(views, n, io, noise != nullptr);
    });
  });
  m.def("cuda_tt_rows", [](const std::vector<LayerTuple>& layers, float scale, int activation, const RowsTuple& rows,
                           const NoiseTuple& moves, uintptr_t workspace, int device, uintptr_t stream) {
    check(on_cuda(layers, rows, moves, [=](const zk_tt* views, int n, const zk_tt_rows* io, const zk_tt_noise* noise) {
      return zk_cuda_tt_rows(views, n, scale, activation, io, noise, reinterpret_cast<float*>(workspace), device,
                             reinterpret_cast<void*>(stream));
    }));
  });
}
