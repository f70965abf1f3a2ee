"""A `torch.optim.Optimizer` that is tied to a module through an engine: its steps, its state, its hooks."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..call.checks import check_number
from ._derived import forget_derived
from ._equal_losses import EqualLosses
from ._exclusive import Exclusive
from ._groups import check_group, find_trainables
from ._presence import Presence, versions
from ._random_state import CommonRandomNumbers
from .engine import Engine, Trainables
from .evaluate import Batched, Evaluator, Loop, Replay
from .perturbation import Directions, StepStart
from .record import Closure, StepRecord, as_scalar, no_forward
from .restore import Needs, build, choose_restore, detach
from .saved import SavedOptimizer


class AttachedOptimizer(SavedOptimizer):
    """What all methods have alike: a step is recorded, timed, landed and undone; state is saved and loaded."""

    directions: Directions
    """What a step perturbs along."""
    evaluation: str
    max_parallel: int | None
    seed: int
    streams: str
    lazy: bool
    rounding: str
    num_evaluations = 0
    skipped_steps = 0
    seconds_outside_closure = 0.0
    last: StepRecord
    _seconds_in_closure = 0.0
    _committed = False
    _undone: list[int] | None = None
    _evaluator: Evaluator
    _presence: Presence
    _randomness: CommonRandomNumbers

    def __init__(
        self, groups: list[dict[str, Any]], defaults: dict[str, Any], module: nn.Module | None, restore: str
    ) -> None:
        self._steps = 0
        self._epoch: int | None = None
        self._asked_restore = restore
        self._module = None if module is None else weakref.ref(module)
        self._engine: Engine | None = None
        self._exclusive = Exclusive(type(self).__name__)
        self._equal_losses = EqualLosses()
        super().__init__(groups, defaults)
        self._attach()

    # -- what a user calls --------------------------------------------------------------------

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

    def close(self) -> None:
        """Lands the weights and removes all hooks. The optimizer cannot step afterwards."""
        with self._exclusive.use("close"):
            self._detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its trainables take the next streams. See `torch.optim.Optimizer`."""
        with self._exclusive.use("add_param_group"):
            check_group(self.defaults, param_group)
            super().add_param_group(param_group)
            if self._engine is None:  # not yet
                return
            try:
                self._attach()
            except BaseException:
                self.param_groups.pop()
                self._attach()
                raise

    # -- a step, whatever the method -----------------------------------------------------------

    def replay_step(self, losses: Sequence[float], *args: Any, **kwargs: Any) -> float:
        """Repeats a step from its logged `last.losses` with no forward: the same moves, bit by bit.

        Args:
            losses: value of each evaluation of the step, in order.
            args, kwargs: what `step` takes after the closure.

        Raises:
            ValueError: the step asks for more or fewer losses than were logged.
        """
        with self._exclusive.use("replay_step"):
            self._renew()
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
        with self._exclusive.use("step", nested=True):
            if self.engine.busy:  # called by a subclass's own step
                return step()
            self._renew()
            return self._timed(step)

    def _renew(self) -> None:
        """At a step's start: follows what the module's owner did to the trainables since the last one."""
        self._presence.check()
        if self._presence.changed:
            self._attach()
            for p in self.trainables:
                for name, value in self.state.get(p, {}).items():
                    if isinstance(value, Tensor) and value.device != p.device:
                        self.state[p][name] = value.to(p.device)
        frozen = self._presence.frozen()
        if frozen != self.engine.frozen:
            with torch.no_grad():
                self.engine.hold_still(frozen)

    def _timed(self, step: Callable[[], float]) -> float:
        engine = self.engine
        started, inside = time.perf_counter(), self._seconds_in_closure
        self.last = StepRecord(step=self._steps)
        self._committed = engine.hooked = False
        try:
            with self._moving():
                self.begin()
                loss = step()
                if not (self.lazy and engine.defers and self._may_stay_pending()):
                    engine.land()
                self._committed = True
            self._undone = None
        finally:
            if self._committed:  # or its update was made before it was cut short: once, not again
                self._steps += 1
            spent = time.perf_counter() - started - (self._seconds_in_closure - inside)
            self.seconds_outside_closure += spent
        if not self.replaying:
            self._equal_losses.see(self.last.losses, engine.trainables, self.param_groups)
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
                    self._undone = versions(self.trainables)
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
        forget_derived()
        self._randomness.renew()
        try:
            with self._exclusive.closure():
                return as_scalar(closure())
        except StopIteration as error:  # would be taken for the end of the losses
            raise RuntimeError(
                "the closure raised StopIteration: it runs several times a step; draw the batch outside it"
            ) from error
        finally:
            forget_derived()
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
        land = self.engine.land
        again = self._undone is not None and self._undone == versions(self.trainables)
        self.directions.begin(StepStart(self.steps, self.turn, self.param_groups, keeps_masks, land, again))

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

    def _detach(self) -> None:
        if self._engine is not None:
            self._finalizer()
            self._engine = None

    def _attach(self) -> None:
        """Builds the engine for the present param groups and hooks it to the module."""
        state = None if self._engine is None else self._engine.state()
        self._detach()
        module = None if self._module is None else self._module()
        trainables = find_trainables(self.param_groups, module, self.streams)
        self._presence = Presence(trainables, module)
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
