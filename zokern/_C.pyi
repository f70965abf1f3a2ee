"""The compiled module: csrc/bindings.cpp. Codes are those of csrc/zokern.h."""

from collections.abc import Sequence

_Tensor = tuple[int, int, int, int, int, int, Sequence[int], Sequence[int], Sequence[int]]

def cpu_has_isa(isa: int) -> int: ...
def cpu_best_isa() -> int: ...
def cpu_use_openmp(gomp_parallel: int) -> None: ...
def cpu_perturb(
    tensors: Sequence[_Tensor],
    seeds: Sequence[int],
    scales: Sequence[float],
    decay: float,
    lane: int,
    distribution: int,
    rounding: int,
    isa: int,
    threads: int,
) -> None: ...
def cpu_normal_tile(seed: int, stream: int, lane: int, tile: int, isa: int) -> list[float]: ...
def cuda_device_count() -> int: ...
def cuda_last_error() -> str: ...
def cuda_perturb(
    tensors: Sequence[_Tensor],
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
    def same_environment(self) -> bool: ...
    def run(self, x: int, y: int, rows: int, dtype: int, threads: int) -> bool: ...
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
