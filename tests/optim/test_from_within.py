"""An optimizer's own methods called from its closure, and from two threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.problems import Bowl, values
from tests.optim.programs import ALL_RESTORES, EPS
from zokern.optim import MeZO


class TestCallsFromWithin:
    """The optimizer's own methods, from its closure, or from two threads."""

    CALLS = {
        "flush": lambda o: o.flush(),
        "state_dict": lambda o: o.state_dict(),
        "load_state_dict": lambda o: o.load_state_dict(o.saved),
        "step": lambda o: o.step(lambda: 1.0),
        "replay_step": lambda o: o.replay_step([1.0, 2.0]),
        "evaluate": lambda o: o.evaluate(lambda: 1.0),
        "close": lambda o: o.close(),
        "add_param_group": lambda o: o.add_param_group({"params": [nn.Parameter(torch.ones(2))]}),
    }

    @pytest.mark.parametrize("restore", ALL_RESTORES)
    @pytest.mark.parametrize("name", CALLS)
    def test_inside_the_closure(self, name: str, restore: dict[str, Any]) -> None:
        model = Bowl()
        optimizer = MeZO(model, lr=1e-3, eps=EPS, **restore)
        optimizer.saved = optimizer.state_dict()
        before = values(model)

        def closure() -> Tensor:
            loss = model()
            self.CALLS[name](optimizer)
            return loss

        with pytest.raises(
            RuntimeError, match=f"{name} was called inside the closure of a step of the same MeZO"
        ):
            optimizer.step(closure)
        assert optimizer.steps == 0
        for p, w in zip(model.parameters(), before):
            torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-6)
        optimizer.step(model)  # and goes on
        assert optimizer.steps == 1 and len(optimizer.param_groups) == 1

    def test_in_two_threads(self) -> None:
        model = Bowl()
        optimizer = MeZO(model, lr=1e-3, eps=EPS)
        inside, go = threading.Event(), threading.Event()

        def closure() -> Tensor:
            inside.set()
            assert go.wait(20)
            return model()

        worker = threading.Thread(target=lambda: optimizer.step(closure))
        worker.start()
        assert inside.wait(20)
        for name, call in (("step", lambda: optimizer.step(model)), ("flush", optimizer.flush),
                           ("state_dict", optimizer.state_dict)):  # fmt: skip
            with pytest.raises(RuntimeError, match=f"{name} was called while another thread is in a step"):
                call()
        go.set()
        worker.join()
        optimizer.step(model)
        assert optimizer.steps == 2

    def test_one_after_the_other_from_several_threads(self) -> None:
        model = Bowl()
        optimizer = MeZO(model, lr=1e-3, eps=EPS)
        for _ in range(3):
            worker = threading.Thread(target=lambda: optimizer.step(model))
            worker.start()
            worker.join()
        assert optimizer.steps == 3
