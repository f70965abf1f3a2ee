"""The compiled module: csrc/bindings.cpp. Codes are those of csrc/zokern.h."""

from collections.abc import Sequence

_Tensor = tuple[int, int, int, int, int, int, Sequence[int], Sequence[int], Sequence[int]]

_State = tuple[int, Sequence[int]]  # data, strides
# seeds, scales, decay, distribution, rounding
_Move = tuple[Sequence[int], Sequence[float], float, int, int]
# seeds, grads, displacements, decay, rule, variant, distribution, rounding
_Adam = tuple[Sequence[int], Sequence[float], Sequence[float], float, Sequence[float], int, int, int]
# seed, scale, displacement, decay, rule, update, rounding
_Adamu = tuple[int, float, float, float, Sequence[float], bool, int]
_Tensors = Sequence[_Tensor]
_States = Sequence[_State]

def cpu_has_isa(isa: int) -> int: ...
def cpu_best_isa() -> int: ...
def cpu_use_openmp(gomp_parallel: int) -> None: ...

class TensorList:
    def __init__(self, tensors: _Tensors) -> None: ...

def cpu_perturb(
    tensors: TensorList,
    seeds: Sequence[int],
    scales: Sequence[float],
    decay: float,
    lane: int,
    distribution: int,
    rounding: int,
    isa: int,
    threads: int,
) -> None: ...
def cpu_perturb_masked(
    tensors: _Tensors, masks: _States, thresholds: Sequence[float], move: _Move, isa: int, threads: int
) -> None: ...
def cpu_adam(tensors: _Tensors, states: _States, move: _Adam, isa: int, threads: int) -> None: ...
def cpu_adamu(tensors: _Tensors, states: _States, move: _Adamu, isa: int, threads: int) -> None: ...
def cuda_perturb_masked(
    tensors: _Tensors, masks: _States, thresholds: Sequence[float], move: _Move, device: int, stream: int
) -> None: ...
def cuda_adam(tensors: _Tensors, states: _States, move: _Adam, device: int, stream: int) -> None: ...
def cuda_adamu(tensors: _Tensors, states: _States, move: _Adamu, device: int, stream: int) -> None: ...
def cpu_normal_tile(seed: int, stream: int, lane: int, tile: int, isa: int) -> list[float]: ...
def cuda_device_count() -> int: ...
def cuda_last_error() -> str: ...
def cuda_perturb(
    tensors: TensorList,
    seeds: Sequence[int],
    scales: Sequence[float],
    decay: float,
    lane: int,
    distribution: int,
    rounding: int,
    device: int,
    stream: int,
) -> None: ...

# modes, ranks, split, in_cut, out_cut, cores, their query strides, bias, its query stride, offsets
_Layer = tuple[
    Sequence[int], Sequence[int], int, int, int, Sequence[int], Sequence[int], int, int, Sequence[int]
]

class TtCall:
    def __init__(self, layers: Sequence[_Layer], scale: float, activation: int, isa: int) -> None: ...
    def run(self, x: int, y: int, rows: int, dtype: int, threads: int) -> None: ...
    def run_strided(
        self,
        x: int,
        y: int,
        rows: int,
        queries: int,
        x_stride: int,
        y_stride: int,
        x_dtype: int,
        y_dtype: int,
        threads: int,
        seeds: Sequence[int],
        scales: Sequence[float],
        stream: int,
        distribution: int,
    ) -> None: ...

def cpu_tt_halves(layer: _Layer, left: int, right: int, queries: int, isa: int, threads: int) -> None: ...

# x, y, rows, queries, strides of x and y, their dtypes; seeds, scales, stream, distribution
_Rows = tuple[int, int, int, int, int, int, int, int]
_Noise = tuple[Sequence[int], Sequence[float], int, int]

def cuda_tt_halves_workspace(layer: _Layer, queries: int) -> int: ...
def cuda_tt_halves(
    layer: _Layer, left: int, right: int, queries: int, workspace: int, device: int, stream: int
) -> None: ...
def cuda_tt_workspace(
    layers: Sequence[_Layer], scale: float, activation: int, rows: _Rows, noise: _Noise
) -> int: ...
def cuda_tt_rows(
    layers: Sequence[_Layer],
    scale: float,
    activation: int,
    rows: _Rows,
    noise: _Noise,
    workspace: int,
    device: int,
    stream: int,
) -> None: ...
