"""The C structures of a tensor-train call, and the emulated CUDA kernels as the ops of a backend."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from zokern.native.tt_cuda import tt_ops

CHOSEN = ("tile", "x_vector", "y_vector", "keep_stride", "in_workspace", "floats", "group_blocks")


class CTT(ctypes.Structure):
    """zk_tt of csrc/zokern.h."""

    _fields_ = [
        ("n_cores", ctypes.c_int32),
        ("split", ctypes.c_int32),
        ("in_cut", ctypes.c_int32),
        ("out_cut", ctypes.c_int32),
        ("modes", ctypes.POINTER(ctypes.c_int64)),
        ("ranks", ctypes.POINTER(ctypes.c_int64)),
        ("cores", ctypes.POINTER(ctypes.c_void_p)),
        ("core_strides", ctypes.POINTER(ctypes.c_int64)),
        ("offsets", ctypes.POINTER(ctypes.c_uint64)),
        ("bias", ctypes.c_void_p),
        ("bias_stride", ctypes.c_int64),
    ]


class CRows(ctypes.Structure):
    """zk_tt_rows of csrc/zokern.h."""

    _fields_ = [
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("y_stride", ctypes.c_int64),
        ("x_dtype", ctypes.c_int32),
        ("y_dtype", ctypes.c_int32),
    ]


class CNoise(ctypes.Structure):
    """zk_tt_noise of csrc/zokern.h."""

    _fields_ = [
        ("seeds", ctypes.POINTER(ctypes.c_uint64)),
        ("scales", ctypes.POINTER(ctypes.c_float)),
        ("stream", ctypes.c_uint32),
        ("distribution", ctypes.c_int32),
    ]


def array(kind: Any, values: Any) -> Any:
    return (kind * len(values))(*values)


def layer_of(packed: tuple) -> CTT:
    modes, ranks, split, in_cut, out_cut, cores, strides, bias, bias_stride, offsets = packed
    return CTT(
        len(modes), split, in_cut, out_cut, array(ctypes.c_int64, modes), array(ctypes.c_int64, ranks),
        array(ctypes.c_void_p, cores), array(ctypes.c_int64, strides), array(ctypes.c_uint64, offsets),
        bias, bias_stride,
    )  # fmt: skip


class Emulated:
    """The ops, and what the last call chose. `backwards`: threads and blocks run in descending order."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.backwards = False
        native = SimpleNamespace(
            cuda_tt_workspace=lambda *_: 0,  # the emulation allocates its own
            cuda_tt_halves_workspace=lambda *_: 0,
            cuda_tt_rows=self._rows,
            cuda_tt_halves=self._halves,
        )
        self.ops = tt_ops(native, lambda _: ())

    def make_tiles_of(self, rows: int | None) -> None:
        """As many rows as a call of many would get; None: as on a device."""
        fill = ctypes.c_int64.in_dll(self.library, "fill")
        fill.value = {None: 256, 1: 2**40, 4: 0}[rows]

    @property
    def chosen(self) -> SimpleNamespace:
        values = (ctypes.c_int64 * len(CHOSEN)).in_dll(self.library, "chosen")
        return SimpleNamespace(**dict(zip(CHOSEN, values)))

    def _rows(self, layers, scale, activation, rows, moves, _):  # type: ignore[no-untyped-def]
        seeds, scales, stream, distribution = moves
        noise = CNoise(array(ctypes.c_uint64, seeds), array(ctypes.c_float, scales), stream, distribution)
        status = self.library.emulated_tt_rows(
            array(CTT, [layer_of(p) for p in layers]), len(layers), ctypes.c_float(scale), activation,
            ctypes.byref(CRows(*rows)), ctypes.byref(noise) if seeds else None, self.backwards,
        )  # fmt: skip
        if status:
            raise RuntimeError(f"status {status}")

    def _halves(self, packed, left, right, queries, _):  # type: ignore[no-untyped-def]
        pointers = (ctypes.c_void_p(left), ctypes.c_void_p(right), ctypes.c_int64(queries))
        status = self.library.emulated_tt_halves(ctypes.byref(layer_of(packed)), *pointers, self.backwards)
        if status:
            raise RuntimeError(f"status {status}")
