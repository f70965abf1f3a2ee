"""PlateauAnneal: rates that are divided when the loss of an epoch has risen."""

from __future__ import annotations

import pytest

from tests.optim.problems import Bowl
from zokern.optim import MeZOSVRG, PlateauAnneal

EPS = 2.0**-7


def test_annealing_divides_both_rates_when_an_epoch_is_worse() -> None:
    optimizer = MeZOSVRG(Bowl(), lr=1.0, lr_minibatch=0.1)
    anneal = PlateauAnneal(optimizer, steps_per_epoch=2)
    losses = [1.0, 1.0, 1.04, 1.05, 1.2, 1.0, 1.0, 1.0]
    # epochs: 1.0, 1.045 (below kappa), 1.1 (1.1 / 1.045 > 1.05), 1.0
    assert [anneal.step(loss) for loss in losses] == [False] * 5 + [True] + [False] * 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert anneal.num_anneals == 1


def test_annealing_understands_negative_objectives() -> None:
    optimizer = MeZOSVRG(Bowl(), lr=1.0)
    anneal = PlateauAnneal(optimizer, steps_per_epoch=1, factor=2)
    assert [anneal.step(-score) for score in (0.5, 0.6, 0.59, 0.5)] == [False, False, False, True]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_annealing_continues_from_its_state() -> None:
    anneal = PlateauAnneal(MeZOSVRG(Bowl(), lr=1.0), steps_per_epoch=2)
    for loss in (1.0, 1.0, 2.0):
        anneal.step(loss)
    again = PlateauAnneal(MeZOSVRG(Bowl(), lr=1.0), steps_per_epoch=2)
    again.load_state_dict(anneal.state_dict())
    assert again.step(2.0)
