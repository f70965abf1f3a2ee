"""What the library advises is said in the command line's own words."""

from __future__ import annotations

import pytest
from torch import nn

from zokern.app.fields import in_flags
from zokern.app.methods import build_optimizer
from zokern.app.options import TrainOptions
from zokern.app.tasks import UserError


def test_options_are_spelled_as_flags() -> None:
    names = {"evaluation", "lazy", "max_parallel"}
    text = "Use evaluation='loop' (or max_parallel=2); lazy=True goes, hidden=3 and modes='x' are no options"
    assert in_flags(text, names) == (
        "Use --evaluation loop (or --max-parallel 2); --lazy goes, hidden=3 and modes='x' are no options"
    )


def test_a_method_that_rejects_its_options_advises_options_of_the_command() -> None:
    options = TrainOptions(
        method="mezo", evaluation="batched", lr=0.1, eps=1e-3, num_queries=1, weight_decay=0.0
    )
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(2, 2))
    with pytest.raises(UserError, match="--evaluation loop") as error:
        build_optimizer(model, options)
    assert "evaluation='" not in str(error.value)
