"""Handwritten digits, 8x8, from scikit-learn: no download, seconds on any machine."""

from __future__ import annotations

import torch

from zokern.app.tasks.base import ArrayTask, by_fixed_hash
from zokern.app.tasks.errors import UserError

__all__ = ["digits"]


def digits() -> ArrayTask:
    """1,797 images in 10 classes (`sklearn.datasets.load_digits`): 1,437 to train on, 360 to test.

    Pixels are scaled from 0..16 to 0..1; the split is fixed by hash.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("Task digits needs scikit-learn: pip install 'zokern[train]'.") from None
    x_np, y_np = load_digits(return_X_y=True)
    x = torch.from_numpy(x_np).float() / 16.0  # [1797, 64]
    y = torch.from_numpy(y_np).to(torch.int64)
    order = torch.tensor(by_fixed_hash([str(index) for index in range(len(y))]))
    test, train = order[:360], order[360:]
    return ArrayTask(
        name="digits",
        labels=tuple(str(digit) for digit in range(10)),
        source="1,797 handwritten digits of 8x8 pixels (scikit-learn)",
        default_model="mlp",
        defaults={},
        train_x=x[train],
        train_y=y[train],
        test_x=x[test],
        test_y=y[test],
    )
