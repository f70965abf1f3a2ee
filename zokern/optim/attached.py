"""A `torch.optim.Optimizer` that is tied to a module through an engine: its steps, its state, its hooks."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..call.checks import check_number
from ._groups import check_group, find_trainables
from .engine import Engine, Trainables
from .evaluate import Batched, Evaluator, Loop, Replay
from .perturbation import Directions, StepStart
from .record import Closure, StepRecord, as_scalar, no_forward
from .restore import Needs, build, choose_restore, detach


class AttachedOptimizer(torch.optim.Optimizer):
    """What all methods have alike: a step is recorded, timed, landed and undone; state is saved and loaded."""

    directions: Directions
    """What a step perturbs along."""
    evaluation: str
    max_parallel: int | None
    seed: int
    lazy: bool
    rounding: str
    num_evaluations = 0
    skipped_steps = 0
    seconds_outside_closure = 0.0
    last: StepRecord
    _seconds_in_closure = 0.0
    _evaluator: Evaluator

    def __init__(
        self, groups: list[dict[str, Any]], defaults: dict[str, Any], module: nn.Module | None, restore: str
    ) -> None:
        self._steps = 0
        self._epoch: int | None = None
        self._asked_restore = restore
        self._module = None if module is None else weakref.ref(module)
        self._engine: Engine | None = None
        super().__init__(groups, defaults)
        self._attach()

    # -- what a user calls --------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The engine that moves the weights."""
        if self._engine is None:
            raise RuntimeError(f"this {type(self).__name__} is closed")
        return self._engine

    @property
    def restore(self) -> str:
        """The restore mode in force: "inplace", "exact" or "snapshot"."""
        return self.engine.mode

    @property
    def trainables(self) -> list[Tensor]:
        """The trainable parameters; the n-th draws from stream n."""
        return self.engine.trainables.params

    @property
    def steps(self) -> int:
        """Steps taken, skipped ones included."""
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Tells a query schedule the epoch (from 0)."""
        self._epoch = int(check_number("epoch", epoch, 0, integer=True))

    def flush(self) -> None:
        """Makes the weights in memory the committed ones (with `lazy`, applies what is pending)."""
        with torch.no_grad():
            self.engine.land()

    def close(self) -> None:
        """Lands the weights and removes all hooks. The optimizer cannot step afterwards."""
        if self._engine is not None:
            self._finalizer()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its trainables take the next streams. See `torch.optim.Optimizer`."""
        check_group(self.defaults, param_group)
        super().add_param_group(param_group)
        if getattr(self, "_engine", None) is not None:
            self._attach()

    def state_dict(self) -> dict[str, Any]:
        """State of the run, after landing the weights. With the model's own state, it continues the
        run bit for bit in every mode. (Landing is a rounding of its own in fp32: a lazy run that
        saves differs in the last bit from one that does not.)"""
        self.flush()
        state = super().state_dict()
        state["zokern"] = {
            "optimizer": type(self).__name__,
            "seed": self.seed,
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
        self.flush()
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "zokern"})
        self._keep_dtypes(state_dict)
        self.seed, self._steps, self._epoch = own["seed"], own["steps"], own["epoch"]
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

    # -- a step, whatever the method -----------------------------------------------------------

    def replay_step(self, losses: Sequence[float], *args: Any, **kwargs: Any) -> float:
        """Repeats a step from its logged `last.losses` with no forward: the same moves, bit by bit.

        Args:
            losses: value of each evaluation of the step, in order.
            args, kwargs: what `step` takes after the closure.

        Raises:
            ValueError: the step asks for more or fewer losses than were logged.
        """
        usual, replay = self._evaluator, Replay(self.engine, losses, self._steps)
        self._evaluator = replay
        try:
            result = self.step(no_forward, *args, **kwargs)
            replay.done()
        finally:
            self._evaluator = usual
        return result

    @property
    def replaying(self) -> bool:
        """Whether this step is one from a log."""
        return isinstance(self._evaluator, Replay)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            setattr(cls, "step", _whole(cls.__dict__["step"]))  # noqa: B010

    def _whole_step(self, step: Callable[[], float]) -> float:
        """`step`, without gradients, recorded, timed, landed at its end (with `lazy` left pending) and
        undone when anything in it raises."""
        engine = self.engine
        if engine.busy:  # called by a subclass's own step
            return step()
        started, inside = time.perf_counter(), self._seconds_in_closure
        self.last = StepRecord(step=self._steps)
        engine.hooked = False
        try:
            with self._moving():
                self.begin()
                loss = step()
                if not (self.lazy and engine.defers and self._may_stay_pending()):
                    engine.land()
        finally:
            spent = time.perf_counter() - started - (self._seconds_in_closure - inside)
            self.seconds_outside_closure += spent
        self._steps += 1
        return loss

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        """Within it, weights are moved: the engine is busy, no gradient is kept, and weights land when
        anything raises."""
        engine = self.engine
        engine.busy += 1
        try:
            with torch.no_grad():
                try:
                    yield
                except BaseException:
                    engine.land()
                    raise
        finally:
            engine.busy -= 1

    def _may_stay_pending(self) -> bool:
        """Whether the hooks that `lazy` relies on ran in this step. They do not in a module that was
        compiled and called before they were there, or whose forward is called by name."""
        if not self.replaying and not self.engine.hooked:
            self.lazy = False
            warnings.warn(
                "lazy=True is given up, weights land after each step: the closure ran no hook of the "
                "module. Pass the module that the closure calls, compiled if it is",
                RuntimeWarning,
                stacklevel=5,
            )
        return self.lazy

    def _call(self, closure: Closure) -> float:
        started = time.perf_counter()
        hooks = self.engine.seconds_in_hooks
        try:
            return as_scalar(closure())
        finally:
            spent = time.perf_counter() - started - (self.engine.seconds_in_hooks - hooks)
            self._seconds_in_closure += spent

    # -- for methods with state or needs of their own -----------------------------------------

    def buffer(self, p: Tensor, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """`state[p][name]`, as large as the parameter and zero at first."""
        state = self.state[p]
        if name not in state:
            with torch.inference_mode(False):
                state[name] = torch.zeros_like(p, dtype=dtype, requires_grad=False)
        return state[name]  # type: ignore[no-any-return]

    def _method_state(self) -> dict[str, Any]:
        """Plain-Python state beyond `self.state`."""
        return {}

    def _load_method_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `_method_state` returned."""

    def _needs(self) -> Needs:
        """What the restore mode has to allow."""
        return Needs(batched=self.evaluation == "batched", committed=self.directions.committed)

    def _prepare(self, trainables: Trainables) -> Directions:
        """The directions that the engine's passes take, for these trainables."""
        self.directions.attach(trainables)
        return self.directions

    def step(self, closure: Closure, *args: Any, **kwargs: Any) -> float:  # type: ignore[override]
        """One step; a method's own."""
        raise TypeError(f"{type(self).__name__} has no step of its own")

    def begin(self) -> None:
        """Before a step's first move: brings the directions up to date."""
        keeps_masks = self.restore == "inplace" or self.keeps_masks
        self.directions.begin(StepStart(self.steps, self.turn, self.param_groups, keeps_masks, self.flush))

    @property
    def keeps_masks(self) -> bool:
        """Whether masks are stored for passes that do not start from the committed weights, as those of
        rules that are not fused with the noise."""
        return False

    @property
    def turn(self) -> int:
        """Counts the choices that directions make: the number of the step, or of the interval where one
        holds for several."""
        return self.steps

    # -- inside -------------------------------------------------------------------------------

    def _attach(self) -> None:
        """Builds the engine for the present param groups and hooks it to the module."""
        state = None if self._engine is None else self._engine.state()
        self.close()
        module = None if self._module is None else self._module()
        trainables = find_trainables(self.param_groups)
        restore = choose_restore(self._asked_restore, self._needs(), trainables.params, module)
        passes = self._prepare(trainables)
        engine, handles = build(trainables, module, restore, self.lazy, passes.apply, self.rounding)
        if state is not None:
            engine.load_state(state)
        self._engine = engine
        self._finalizer = weakref.finalize(self, detach, engine, handles)
        self._finalizer.atexit = False
        self._evaluator = Loop(engine)
        if self.evaluation == "batched" and self._module is not None:
            self._evaluator = Batched(engine, self._module, passes, self.max_parallel)

    def _keep_dtypes(self, state_dict: dict[str, Any]) -> None:
        """torch casts loaded state to the parameter's dtype; fp32 state of bf16 weights stays."""
        saved = state_dict["state"]
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for index, p in zip(indices, params):
            for key, value in saved.get(index, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][key] = value.detach().clone().to(p.device)


def _whole(step: Callable[..., float]) -> Callable[..., float]:
    """A subclass's `step` as users call it."""

    @functools.wraps(step)
    def whole(self: AttachedOptimizer, closure: Closure | None = None, *args: Any, **kwargs: Any) -> float:
        if not callable(closure):
            raise TypeError(
                f"step needs a closure that returns the loss, got {closure!r}: a zeroth-order step "
                f"is made of losses"
            )
        return self._whole_step(functools.partial(step, self, closure, *args, **kwargs))

    return whole
