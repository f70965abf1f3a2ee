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
