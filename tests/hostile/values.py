"""Values that no argument expects, and the kinds of argument by which of them each takes with a meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

HOSTILE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "x",
    "bytes": lambda: b"x",
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-1": lambda: -1,
    "1e300": lambda: 1e300,
    "2**70": lambda: 2**70,
    "1.5": lambda: 1.5,
    "True": lambda: True,
    "complex": lambda: 1j,
    "[]": list,
    "[[]]": lambda: [[]],
    "{}": dict,
    "object": object,
    "np.nan": lambda: np.float64(math.nan),
    "np.bool": lambda: np.bool_(True),
    "np.int64": lambda: np.int64(1),
    "np.float32": lambda: np.float32(0.5),
    "np.array": lambda: np.array([1, 2]),
    "0-d tensor": lambda: torch.tensor(0.5),
    "int tensor": lambda: torch.tensor(1),
    "grad tensor": lambda: torch.tensor(0.5, requires_grad=True),
    "meta tensor": lambda: torch.empty((), device="meta"),
    "sparse tensor": lambda: torch.eye(2).to_sparse(),
    "bool tensor": lambda: torch.tensor([True, False]),
    "set": lambda: {1},
    "generator": lambda: (i for i in (1, 2)),
    "module": lambda: nn.Linear(1, 1),
    "class": lambda: int,
}

Kind = frozenset[str]


def kind(*names: str) -> Kind:
    assert all(name in HOSTILE for name in names)
    return frozenset(names)


NOTHING = kind()
NONE = kind("None")
INTEGER = kind("np.int64", "int tensor")
"""From 1 or 0 on: `True`, 1.5 and 2**70 are refused."""
SHARE = kind("np.float32", "0-d tensor", "np.int64", "int tensor")
"""A number in [0, 1]."""
BELOW_1 = kind("np.float32", "0-d tensor")
POSITIVE = SHARE | kind("1.5", "2**70")
"""A number above 0 that fits fp32."""
FINITE = POSITIVE | kind("-1")
POSITIVE_64 = POSITIVE | kind("1e300")
"""A number above 0, as optimizers keep them: in float64."""
FLAG = kind("True", "np.bool")
TENSOR = NOTHING
ONE_FOR_ALL = POSITIVE | kind("inf")
"""Thresholds."""
