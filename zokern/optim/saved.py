"""The state of an optimizer as it is saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._exclusive import Exclusive
from .engine import Engine
from .perturbation import Directions


class SavedOptimizer(torch.optim.Optimizer):
    """Saves and loads a run; what a method keeps beyond `self.state` it says in `_method_state`."""

    directions: Directions
    seed: int
    lazy: bool
    num_evaluations: int
    skipped_steps: int
    streams: str
    _steps: int
    _epoch: int | None
    _engine: Engine | None
    _exclusive: Exclusive

    @property
    def engine(self) -> Engine:
        """The engine that moves the weights."""
        if self._engine is None:
            raise RuntimeError(f"this {type(self).__name__} is closed")
        return self._engine

    def flush(self) -> None:
        """Makes the weights in memory the committed ones (with `lazy`, applies what is pending)."""
        with self._exclusive.use("flush", nested=True), torch.no_grad():
            self.engine.land()

    def state_dict(self) -> dict[str, Any]:
        """State of the run, after landing the weights. With the model's own state, it continues the
        run bit for bit in every mode. (Landing is a rounding of its own in fp32: a lazy run that
        saves differs in the last bit from one that does not.)"""
        with self._exclusive.use("state_dict"):
            return self._state()

    def _state(self) -> dict[str, Any]:
        self.flush()
        state = super().state_dict()
        state["zokern"] = {
            "optimizer": type(self).__name__,
            "seed": self.seed,
            "streams": self.streams,
            "lazy": self.lazy,
            "steps": self._steps,
            "epoch": self._epoch,
            "num_evaluations": self.num_evaluations,
            "skipped_steps": self.skipped_steps,
            "engine": self.engine.state(),
            "directions": self.directions.state(),
            "method": self._method_state(),
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a run's state; load the model's own weights as well, before or after.

        Raises:
            ValueError: the state is another optimizer's, or its parameters do not match.
        """
        own = state_dict.get("zokern")
        if own is None or own["optimizer"] != type(self).__name__:
            found = "a torch.optim optimizer" if own is None else own["optimizer"]
            raise ValueError(f"state_dict is of {found}, not of {type(self).__name__}")
        with self._exclusive.use("load_state_dict"):
            self._load(state_dict, own)

    def _load(self, state_dict: dict[str, Any], own: dict[str, Any]) -> None:
        self.flush()
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "zokern"})
        self._keep_dtypes(state_dict)
        self.seed, self._steps, self._epoch = own["seed"], own["steps"], own["epoch"]
        if (streams := own.get("streams", "order")) != self.streams:  # of version 0.1, in order
            self.streams = streams
            self._attach()
        self.lazy = self.lazy and own["lazy"]
        self.num_evaluations = own["num_evaluations"]
        self.skipped_steps = own["skipped_steps"]
        self.engine.load_state(own["engine"])
        # earlier versions kept the thresholds of SparseMeZO with the method's own state
        self.directions.load_state(own.get("directions", own["method"]))
        self._load_method_state(own["method"])

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            f"a {type(self).__name__} is tied to its model and cannot be copied or pickled; copy "
            f"the model, construct another and pass state_dict() on"
        )

    def _attach(self) -> None:
        """Builds the engine for the present param groups."""

    def _method_state(self) -> dict[str, Any]:
        """Plain-Python state beyond `self.state`."""
        return {}

    def _load_method_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `_method_state` returned."""

    def _keep_dtypes(self, state_dict: dict[str, Any]) -> None:
        """torch casts loaded state to the parameter's dtype; fp32 state of bf16 weights stays."""
        saved = state_dict["state"]
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for index, p in zip(indices, params):
            for key, value in saved.get(index, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][key] = value.detach().clone().to(p.device)
