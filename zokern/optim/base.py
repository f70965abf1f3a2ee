"""The base of all optimizers here: parameters, seeds, steps, state. Where the weights are is the
engine's business; which points a method visits and what it commits is its `step`."""

from __future__ import annotations

import functools
import time
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..random import check_seed, derive_seed
from ._build import MODES, build, detach
from ._groups import as_groups, check_choice, check_group, check_number
from ._steps import Closure, StepRecord, as_scalar, no_forward, whole_step
from .engine import Apply, ApplySeeds, Engine, Terms
from .schedules import QuerySchedule

Coefficient = float | Sequence[float]
"""One number, or one a param group."""

FP32_MAX = torch.finfo(torch.float32).max


class ZerothOrderOptimizer(torch.optim.Optimizer):
    r"""Base class: a subclass writes `step(closure)` with `next_seed`, `evaluate` and `commit`.

    Example of a whole method:

        class MeZO(ZerothOrderOptimizer):
            def step(self, closure):
                seed = self.next_seed()
                plus = self.evaluate(closure, {seed: +eps})
                minus = self.evaluate(closure, {seed: -eps})
                g = (plus - minus) / (2 * eps)
                self.commit({seed: -lr * g}, decay=1 - lr * weight_decay)
                return (plus + minus) / 2

    `step` of a subclass is run under `torch.no_grad()`, lands the weights at its end (unless
    `lazy`) and puts them back when anything in it raises, Ctrl-C included.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups (dicts with "params"
            and any option of `defaults` or "eps"). Frozen parameters are skipped; tied ones are
            moved once. The n-th trainable draws from stream n.
        defaults: options that a param group may override; "lr" among them.
        eps: perturbation scale; a param group may override it.
        seed: of the run, int in [0, 2**64): seeds of steps and queries derive from it, and no
            global generator is read or set.
        lazy: leave restore and update pending so that they fuse into the next step's first pass.
            Needs the module: its hooks land what is pending before any forward outside `step`,
            before `state_dict`, `save_pretrained` and `load_state_dict`. Code that reads or writes
            parameters in other ways calls `flush()` first. Pass a compiled module as the compiled
            one, so that its hook stands before the graph and not in it.
        restore: how weights come back from a probe. "inplace": they are moved themselves, no
            memory, back to rounding. "exact": never displaced; each module's perturbed copy lives
            in a scratch during its forward; needs the module. "snapshot": a copy of the trainables.
            "auto": in place for fp32 and float64; with a 16-bit trainable exact, or snapshot where
            there is no module, the module is compiled, or the trainables are under 1/16 of it.
        rounding: of updates to 16-bit weights: "stochastic" or "nearest". Probes round to nearest.
        distribution: "gaussian" or "rademacher".
        num_queries: directions a step, or a schedule with `queries(epoch)`.
        module: the module that owns the parameters, when `params` is not it.
        apply: carries out one pass, for methods whose directions are not plain seeds.

    Raises:
        TypeError: a parameter is not a floating-point tensor of a supported dtype.
        ValueError: an option is out of range, no trainable parameter is left, a parameter occurs
            twice, or the restore mode or `lazy` needs a module.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        defaults: dict[str, Any],
        *,
        eps: float,
        seed: int = 0,
        lazy: bool = False,
        restore: str = "auto",
        rounding: str = "stochastic",
        distribution: str = "gaussian",
        num_queries: int | QuerySchedule = 1,
        module: nn.Module | None = None,
        apply: Apply | None = None,
    ) -> None:
        check_choice("restore", restore, ("auto", "inplace", "exact", "snapshot"))
        check_choice("rounding", rounding, ("stochastic", "nearest"))
        check_choice("distribution", distribution, ("gaussian", "rademacher"))
        if not hasattr(num_queries, "queries"):
            check_number("num_queries", num_queries, 1, integer=True)
        if isinstance(params, nn.Module):
            module = params
        if module is None and (lazy or restore == "exact"):
            asked = "lazy=True" if lazy else "restore='exact'"
            raise ValueError(
                f"{asked} needs the module, for its hooks: pass the model itself in place of its "
                f"parameters, or module=model beside param groups"
            )
        self.seed = check_seed(seed)
        self.lazy = bool(lazy)
        self.rounding = rounding
        self.distribution = distribution
        self.num_queries = num_queries
        self.num_evaluations = 0
        self.skipped_steps = 0
        self.seconds_outside_closure = 0.0
        self.last = StepRecord()
        self._steps = 0
        self._epoch: int | None = None
        self._seconds_in_closure = 0.0
        self._replay: deque[float] | None = None
        self._asked_restore = restore
        self._module = None if module is None else weakref.ref(module)
        self._apply: Apply = ApplySeeds(distribution) if apply is None else apply
        self._engine: Engine | None = None
        super().__init__(as_groups(params), {"eps": eps, **defaults})
        self._attach()

    # -- what a method is made of -------------------------------------------------------------

    def next_seed(self, query: int = 0) -> int:
        """The seed of query `query` of this step: `derive_seed(run seed, step, query)`."""
        return derive_seed(self.seed, self._steps, query)

    def evaluate(self, closure: Closure, terms: Mapping[Any, Coefficient] | None = None) -> float:
        """The loss at committed weights + sum terms[seed] * z(seed).

        Args:
            closure: returns the loss: a float, or a tensor or numpy value of one element. It is
                called once, or again where `restore="exact"` finds a weight it has to cover, so it
                must give the same loss twice: draw the batch outside.
            terms: direction to coefficient, or to one coefficient a param group; default none.

        Cost: one pass (none for the committed weights themselves, if they are in place).
        """
        engine = self.engine
        offsets = self._per_group(terms or {})
        engine.busy += 1
        try:
            with torch.no_grad():
                if self._replay is None:
                    loss = engine.evaluate(functools.partial(self._call, closure), offsets)
                else:
                    engine.revisit(offsets)
                    if not self._replay:
                        raise ValueError(f"the log of step {self._steps} has too few losses")
                    loss = self._replay.popleft()
        except BaseException:
            with torch.no_grad():
                engine.land()
            raise
        finally:
            engine.busy -= 1
        self.num_evaluations += 1
        self.last.losses.append(loss)
        return loss

    def commit(self, terms: Mapping[Any, Coefficient], decay: Coefficient = 1.0) -> bool:
        """Commits `decay * weights + sum terms[seed] * z(seed)`.

        Args:
            terms: direction to coefficient, or to one a param group. The first keys the stochastic
                rounding of 16-bit weights: put a fresh seed first.
            decay: factor of the weights, or one a param group.

        Returns:
            False when a number is not finite: then nothing is committed and the step counts in
            `skipped_steps`.

        Cost: no pass by itself; the step ends with one (lazy: none).
        """
        offsets = self._per_group(terms)
        decays = self._broadcast(decay)
        if self.skips(*decays, *(value for o in offsets for value in o.values())):
            return False
        self.engine.commit(decays, offsets)
        coefficients = {key: [o[key] for o in offsets] for key in terms}
        self.last.commits.append((decays, coefficients))
        return True

    def update(self, apply: Apply) -> None:
        """Commits through a fused pass of the method's own (Adam, dense momentum).

        `apply(batch)` is called once a param group (and device), `batch.group` being its index. The
        weights it starts from are `batch.decay * source + sum batch.terms * z`; what it writes to
        `batch.target` becomes the committed weights.
        """
        self.engine.update(apply)

    def direction(self, seed: int) -> Any:
        """What `spsa` perturbs along for a query's seed: its z. A method whose `apply` reads other
        directions overrides it."""
        return seed

    def spsa(self, closure: Closure, one_sided: bool = False) -> tuple[float, dict[Any, float]]:
        r"""Evaluates this step's queries.

        Two-sided: delta = (loss(+eps z) - loss(-eps z)) / 2. One-sided: delta = loss(+eps z) -
        loss, with one base loss for all queries. The projected gradient along z is delta / eps.

        Returns:
            The loss to report (two-sided: the mean of all evaluations; one-sided: the base loss),
            and {direction: delta}.
        """
        eps = [group["eps"] for group in self.param_groups]
        back = [-e for e in eps]
        losses, deltas = [], {}
        base = self.evaluate(closure) if one_sided else 0.0
        for query in range(self.queries()):
            seed = self.next_seed(query)
            along = self.direction(seed)
            plus = self.evaluate(closure, {along: eps})
            if one_sided:
                deltas[along] = plus - base
            else:
                minus = self.evaluate(closure, {along: back})
                losses += [plus, minus]
                deltas[along] = (plus - minus) / 2
            self.last.projected_grads[seed] = deltas[along] / eps[0]
        return (base if one_sided else sum(losses) / len(losses)), deltas

    def skips(self, *values: float) -> bool:
        """Whether a value is not a finite fp32 number; if so this step counts as skipped."""
        if all(abs(value) <= FP32_MAX for value in values):
            return False
        if not self.last.skipped:
            self.last.skipped = True
            self.skipped_steps += 1
            if self.skipped_steps == 1:
                warnings.warn(
                    f"step {self._steps} is skipped: its losses {self.last.losses} do not give a "
                    f"finite update. Weights stay as they were; later skips are counted in "
                    f"optimizer.skipped_steps without a warning",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return True

    def queries(self) -> int:
        """Directions of this step: `num_queries`, or its schedule's value for the epoch."""
        schedule = self.num_queries
        if isinstance(schedule, int):
            return schedule
        epoch = self._epoch
        if epoch is None:
            per_epoch = getattr(schedule, "steps_per_epoch", None)
            if per_epoch is None:
                raise ValueError(
                    "num_queries is a schedule over epochs: call optimizer.set_epoch(epoch), or "
                    "give the schedule steps_per_epoch"
                )
            epoch = self._steps // per_epoch
        return schedule.queries(epoch)

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
        return next(name for name, kind in MODES.items() if type(self.engine) is kind)

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

    def __enter__(self) -> ZerothOrderOptimizer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def replay_step(self, losses: Sequence[float], *args: Any, **kwargs: Any) -> float:
        """Repeats a step from its logged `last.losses` with no forward: the same moves, bit by bit.

        Args:
            losses: value of each evaluation of the step, in order.
            args, kwargs: what `step` takes after the closure.

        Raises:
            ValueError: the step asks for more or fewer losses than were logged.
        """
        self._replay = deque(float(loss) for loss in losses)
        try:
            result = self.step(no_forward, *args, **kwargs)
            if self._replay:
                raise ValueError(f"the log of step {self._steps - 1} has {len(self._replay)} losses too many")
        finally:
            self._replay = None
        return result

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
        self._load_method_state(own["method"])

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            f"a {type(self).__name__} is tied to its model and cannot be copied or pickled; copy "
            f"the model, construct another and pass state_dict() on"
        )

    # -- for subclasses with state of their own -----------------------------------------------

    def _method_state(self) -> dict[str, Any]:
        """Plain-Python state beyond `self.state`."""
        return {}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        """Takes over what `_method_state` returned."""

    # -- inside -------------------------------------------------------------------------------

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            setattr(cls, "step", whole_step(cls.__dict__["step"]))  # noqa: B010

    def _attach(self) -> None:
        """Builds the engine for the present param groups and hooks it to the module."""
        state = None if self._engine is None else self._engine.state()
        self.close()
        module = None if self._module is None else self._module()
        engine, handles = build(
            self.param_groups, module, self._asked_restore, self.lazy, self._apply, self.rounding
        )
        if state is not None:
            engine.load_state(state)
        self._engine = engine
        self._finalizer = weakref.finalize(self, detach, engine, handles)
        self._finalizer.atexit = False

    def _may_stay_pending(self) -> bool:
        """Whether the hooks that `lazy` relies on ran in this step. They do not in a module that was
        compiled and called before they were there, or whose forward is called by name."""
        if self._replay is None and not self.engine.hooked:
            self.lazy = False
            warnings.warn(
                "lazy=True is given up, weights land after each step: the closure ran no hook of the "
                "module. Pass the module that the closure calls, compiled if it is",
                RuntimeWarning,
                stacklevel=4,
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

    def _broadcast(self, value: Coefficient) -> list[float]:
        groups = len(self.param_groups)
        if isinstance(value, Sequence):
            if len(value) != groups:
                raise ValueError(f"{len(value)} coefficients for {groups} param groups")
            return [float(v) for v in value]
        return [float(value)] * groups

    def _per_group(self, terms: Mapping[Any, Coefficient]) -> list[Terms]:
        wide = {key: self._broadcast(value) for key, value in terms.items()}
        return [{k: v[g] for k, v in wide.items()} for g in range(len(self.param_groups))]

    def _keep_dtypes(self, state_dict: dict[str, Any]) -> None:
        """torch casts loaded state to the parameter's dtype; fp32 state of bf16 weights stays."""
        saved = state_dict["state"]
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for index, p in zip(indices, params):
            for key, value in saved.get(index, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][key] = value.detach().clone().to(p.device)
