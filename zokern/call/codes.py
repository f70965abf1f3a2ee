"""The numbers that stand for dtypes and choices in `csrc/zokern.h`, in the order of its enums."""

from __future__ import annotations

import torch

DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
DISTRIBUTION = {"gaussian": 0, "rademacher": 1}
ROUNDING = {"nearest": 0, "stochastic": 1}
VARIANT = {"adam": 0, "adamax": 1, "adamm": 2}
ACTIVATION = {"identity": 0, "relu": 1, "gelu": 2, "silu": 3, "tanh": 4}

DTYPES = tuple(DTYPE)
DISTRIBUTIONS = tuple(DISTRIBUTION)
ROUNDINGS = tuple(ROUNDING)
VARIANTS = tuple(VARIANT)
ACTIVATIONS = tuple(ACTIVATION)
