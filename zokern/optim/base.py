"""The base of all optimizers here: seeds, points, losses, commits. Where the weights are is the
engine's business; which points a method visits and what it commits is its `step`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..call.checks import check_choice, check_flag, check_integer, check_kind, check_seed
from ..random import derive_seed
from ._groups import STREAMS, as_groups
from ._random_state import CommonRandomNumbers
from .attached import AttachedOptimizer
from .evaluate import EVALUATIONS
from .moves import Apply, Direction, Point, uninterrupted
from .options import Params, Queries
from .perturbation import FullNoise, Perturbation
from .record import Closure, Estimate, StepRecord
from .restore import MODES

Coefficient = float | Sequence[float]
"""One number, or one a param group."""

Combination = Mapping[Any, Coefficient]
"""Direction to coefficient."""

FP32_MAX = torch.finfo(torch.float32).max


class ZerothOrderOptimizer(AttachedOptimizer):
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

    `spsa(closure)` evaluates all queries of a step. `step` is run under `torch.no_grad()`, lands the weights
    at its end (unless `lazy`) and puts them back when anything in it raises, Ctrl-C included.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups (dicts with "params"
            and any option of `defaults` or "eps"). Frozen parameters are skipped; tied ones are
            moved once. The n-th trainable draws from stream n; see `streams`.
        defaults: options that a param group may override; "lr" among them.
        eps: perturbation scale; a param group may override it.
        num_queries: directions a step, or a schedule with `queries(epoch)`.
        perturbation: what z is: `FullNoise()` (default), `SmallWeights`, `GivenMasks`, `Blocks`.
        distribution: "gaussian" or "rademacher".
        evaluation: "loop" runs one forward a point. "batched" evaluates all points of a step in one
            forward of the module over the batch repeated: row block p goes through perturbed copy p.
            Needs the module; trainables may be those of TT layers and adapters and of `nn.Linear`
            (LoRA, heads). The closure calls the module each time with the same inputs, and computes the
            loss from its outputs; both have the batch first. Losses agree with the loop's to rounding,
            and equal losses give equal weights; the first step evaluates both and refuses a model whose
            rows meet. Memory: the activations of all points.
        max_parallel: most copies in one forward; default all.
        restore: how weights come back from a probe. "inplace": they are moved themselves, no
            memory, back to rounding. "exact": never displaced; each module's perturbed copy lives
            in a scratch during its forward; needs the module. A trainable that is read elsewhere, or with
            gradients enabled (by a closure that makes its loss of derivatives), is covered by a copy of
            it. Memory taken as a NumPy array beforehand and reads in compiled extensions outside the
            module's forward are not seen. "snapshot": a copy of the trainables.
            "auto": see `zokern.optim.restore.choose_restore`.
        lazy: leave restore and update pending so that they fuse into the next step's first pass.
            Needs the module: its hooks land what is pending before any forward outside `step`,
            before `state_dict`, `save_pretrained` and `load_state_dict`. Code that reads or writes
            parameters in other ways calls `flush()` first. Of a compiled module, pass the compiled one,
            whose hook stands before the graph. No effect where evaluation is batched.
        rounding: of updates to 16-bit weights: "stochastic" or "nearest". Probes round to nearest.
        common_random_numbers: dropout and all else that draws from PyTorch's global generators (CPU and
            devices) draws the same numbers in all losses of a step, from a state that derives from (seed,
            step), so that their difference is that of the weights. Global state is afterwards what it was.
            False leaves the generators alone: each loss has a dropout of its own.
        seed: of the run, int in [0, 2**64): seeds of steps and queries derive from it, and no
            global generator is read or set.
        streams: the order in which trainables count their streams. "auto": the module's own where it is
            known, so that taking a group without decay apart changes no noise; else as listed. "name": by
            name, numbers by value. "order": as listed, group by group (as up to version 0.1; states of
            those versions resume so).
        module: the module that owns the parameters, when `params` is not it.

    Raises:
        TypeError: an argument is of the wrong kind, or a parameter's dtype is not supported.
        ValueError: an option is out of range, no trainable parameter is left, one occurs twice, or the
            restore mode, the evaluation or `lazy` needs a module.
    """

    writes_momentum = False
    """Whether the method keeps the momentum that a perturbation may be drawn around."""

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        eps: float,
        num_queries: int | Queries = 1,
        perturbation: Perturbation | None = None,
        distribution: str = "gaussian",
        evaluation: str = "loop",
        max_parallel: int | None = None,
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        common_random_numbers: bool = True,
        seed: int = 0,
        streams: str = "auto",
        module: nn.Module | None = None,
    ) -> None:
        groups = as_groups(params)
        check_choice("restore", restore, ("auto", *MODES))
        check_choice("rounding", rounding, ("stochastic", "nearest"))
        check_choice("distribution", distribution, ("gaussian", "rademacher"))
        check_choice("evaluation", evaluation, EVALUATIONS)
        if isinstance(num_queries, type) or not hasattr(num_queries, "queries"):
            num_queries = check_integer("num_queries", num_queries, 1)
        if max_parallel is not None:
            max_parallel = check_integer("max_parallel", max_parallel, 1)
        lazy = check_flag("lazy", lazy)
        check_kind("defaults", defaults, Mapping, "a dict of options")
        if module is not None:
            check_kind("module", module, nn.Module, "a module")
        if perturbation is not None and not isinstance(perturbation, Perturbation):
            raise TypeError(f"perturbation must be a Perturbation, got {perturbation!r}")
        if not self.writes_momentum and perturbation is not None and perturbation.reads_momentum:
            raise TypeError(
                f"perturbation must not be Momentum, which only ZOAdaMU writes, got {perturbation!r}"
            )
        if isinstance(params, nn.Module):
            if module is not None and module is not params:
                raise ValueError("module goes with params that are no module, and params is another one")
            module = params
        asks = {
            "lazy=True": (lazy, "for its hooks"),
            "restore='exact'": (restore == "exact", "for its hooks"),
            "evaluation='batched'": (evaluation == "batched", "whose forward it batches"),
        }
        for option, (needed, purpose) in asks.items():
            if needed and module is None:
                raise ValueError(
                    f"{option} needs the module, {purpose}: pass the model itself in place of its "
                    f"parameters, or module=model beside param groups"
                )
        check_choice("streams", streams, STREAMS)
        self.seed, self.streams = check_seed("seed", seed), streams
        self.lazy = bool(lazy) and evaluation == "loop"  # batched: no displacement to fuse with
        self.rounding = rounding
        self.distribution = distribution
        self.num_queries = num_queries
        self.evaluation, self.max_parallel = evaluation, max_parallel
        self._randomness = CommonRandomNumbers(check_flag("common_random_numbers", common_random_numbers))
        self.directions = (perturbation or FullNoise()).bind(distribution)
        self.last = StepRecord()
        super().__init__(groups, {"eps": eps, **defaults}, module, restore)

    # -- what a method is made of -------------------------------------------------------------

    def next_seed(self, query: int = 0) -> int:
        """The seed of query `query` of this step: `derive_seed(run seed, step, query)`."""
        return derive_seed(self.seed, self._steps, query)

    def evaluate(self, closure: Closure, terms: Combination | None = None) -> float:
        """The loss at committed weights + sum terms[seed] * z(seed).

        Args:
            closure: returns the loss: a float, or a tensor or numpy value of one element. It is
                called once, or again where `restore="exact"` finds a weight it has to cover, so it
                must give the same loss twice: draw the batch outside.
            terms: direction to coefficient, or to one coefficient a param group; default none.

        Cost: one pass (none for the committed weights themselves, if they are in place).
        """
        return self.losses(closure, [terms or {}])[0]

    def losses(self, closure: Closure, points: Sequence[Combination]) -> list[float]:
        """The losses at several points, each named as in `evaluate`; batched in one forward."""
        found: list[float] = []
        offsets = [self._per_group(terms) for terms in points]
        with (
            self._exclusive.use("evaluate", nested=True),
            self._randomness.of(self.seed, self._steps),
            self._moving(),
        ):
            for loss in self._evaluator(functools.partial(self._call, closure), offsets):
                self.num_evaluations += 1
                self.last.losses.append(loss)
                found.append(loss)
        return found

    def spsa(
        self,
        closure: Closure,
        *,
        one_sided: bool = False,
        seeds: Sequence[int] | None = None,
        around: Sequence[Combination] = ({},),
    ) -> list[Estimate]:
        """Estimates of the gradient along this step's directions, divided by their number.

        Two-sided: g = (loss(+eps z) - loss(-eps z)) / 2 eps. One-sided: g = (loss(+eps z) - loss) / eps,
        with one base loss for all queries.

        Args:
            closure: returns the loss.
            one_sided: which of the two.
            seeds: of the directions; default the `queries()` of the step.
            around: displacements of the points around which to estimate, one estimate each, with the
                same directions; default the committed weights alone.
        """
        if seeds is None:
            seeds = [self.next_seed(query) for query in range(self.queries())]
        eps = [float(group["eps"]) for group in self.param_groups]
        back = [-e for e in eps]
        along = [self.directions.direction(seed) for seed in seeds]
        points: list[Combination] = []
        for there in around:
            if one_sided:
                points += [there, *({d: eps, **there} for d in along)]
            else:
                points += [{d: scale, **there} for d in along for scale in (eps, back)]
        losses = self.losses(closure, points)
        count = len(points) // len(around)
        estimates = []
        for n in range(len(around)):
            own = losses[n * count : (n + 1) * count]
            if one_sided:
                deltas = [plus - own[0] for plus in own[1:]]
            else:
                deltas = [(plus - minus) / 2 for plus, minus in zip(own[::2], own[1::2])]
            grads = {d: [delta / (len(along) * e) for e in eps] for d, delta in zip(along, deltas)}
            estimates.append(Estimate(own[0] if one_sided else sum(own) / count, grads))
            if n == 0:
                self.last.projected_grads |= {s: delta / eps[0] for s, delta in zip(seeds, deltas)}
        return estimates

    def commit(self, terms: Combination, decay: Coefficient = 1.0) -> bool:
        """Commits `decay * weights + sum terms[seed] * z(seed)`.

        Args:
            terms: direction to coefficient, or to one a param group. The first keys the stochastic
                rounding of 16-bit weights: put a fresh one first.
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
        coefficients = {key: [o[key] for o in offsets] for key in terms}
        with uninterrupted():
            self.engine.commit(decays, offsets)
            self._committed = True
            self.last.commits.append((decays, coefficients))
        return True

    def update(self, apply: Apply) -> None:
        """Commits through a fused pass of the method's own (Adam, dense momentum).

        `apply(work)` is called once a param group (and device), `work.group` being its index. The
        weights it starts from are `work.decay * source + sum work.terms * z`; what it writes to
        `work.target` becomes the committed weights.
        """
        with uninterrupted():
            self.engine.update(apply)
            self._committed = True

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
        if self._epoch is not None:
            return schedule.queries(self._epoch)
        per_epoch = getattr(schedule, "steps_per_epoch", None)
        if per_epoch is None:
            raise ValueError(
                "num_queries is a schedule over epochs: call optimizer.set_epoch(epoch), or "
                "give the schedule steps_per_epoch"
            )
        return schedule.queries(self._steps // per_epoch)

    # -- inside -------------------------------------------------------------------------------

    def _broadcast(self, value: Coefficient) -> list[float]:
        groups = len(self.param_groups)
        if isinstance(value, Sequence):
            if len(value) != groups:
                raise ValueError(f"{len(value)} coefficients for {groups} param groups")
            return [float(v) for v in value]
        return [float(value)] * groups

    def _per_group(self, terms: Combination) -> Point:
        wide: dict[Direction, list[float]] = {key: self._broadcast(value) for key, value in terms.items()}
        return [{k: v[g] for k, v in wide.items()} for g in range(len(self.param_groups))]
