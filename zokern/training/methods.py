"""Which optimizer a run uses. A new method is one entry of `METHODS`.

    METHODS["my-method"] = Method(build=lambda model, o: MyOptimizer(model, lr=o.lr, ...))

The loop calls `method.step(optimizer, closures, progress)` once per step and logs the losses the
optimizer saw (`optimizer.last.losses`); resuming repeats the steps from the log with
`method.replay`, no forward. Any `ZerothOrderOptimizer` whose `step` takes only the closure needs
neither written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zokern.tasks import UserError
from zokern.training.options import TrainOptions

__all__ = [
    "FIRST_ORDER_STEP",
    "METHODS",
    "Closures",
    "Method",
    "Progress",
    "build_optimizer",
    "check_method",
]

FIRST_ORDER_STEP = 3.0
"""What a first-order step counts, in forward passes: a backward pass costs about two."""


@dataclass(frozen=True)
class Closures:
    """What a step may evaluate; each returns a mean loss, as a float but for `tensor`.

    Args:
        batch: over the step's own batch.
        full: over a larger fixed sample (`full_batch_size` of the options), in micro-batches.
        sample: over example i of that sample.
        tensor: over the step's own batch, with its graph.
    """

    batch: Callable[[], float]
    full: Callable[[], float]
    sample: Callable[[int], float]
    tensor: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """Where the run is: `step` and `epoch` counted from 0, the run's `steps`, and its options."""

    step: int
    epoch: int
    steps: int
    options: TrainOptions


def _plain_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.batch))


def _plain_replay(optimizer: Any, losses: list[float], progress: Progress) -> float:
    return float(optimizer.replay_step(losses))


def _one_batch(optimizer: Any, options: TrainOptions) -> float:
    return 1.0


def _spsa_forwards(options: TrainOptions, step: int) -> float:
    queries = queries_at(options, step)
    return queries + 1.0 if options.one_sided else 2.0 * queries


@dataclass(frozen=True)
class Method:
    """A way of training.

    Args:
        build: (model, options) -> optimizer with `step`, `flush`, `state_dict`, `load_state_dict`,
            `param_groups`, `last.losses` and `replay_step`; the model is the whole classifier.
        summary: one line for `--help`.
        reads: names of the options that only some methods read and this one does; None: all.
        step: one step; returns the loss to show.
        replay: repeats a step from its logged losses, bit for bit; None: it cannot be, and
            resuming goes by checkpoints alone.
        evaluation: (optimizer, options) -> what each evaluation of the next step costs, in forward
            passes over `batch_size` examples.
        forwards: (options, step) -> what step `step` (from 0) costs in all, for planning.
    """

    build: Callable[[nn.Module, TrainOptions], Any]
    summary: str
    reads: frozenset[str] | None = None
    step: Callable[[Any, Closures, Progress], float] = _plain_step
    replay: Callable[[Any, list[float], Progress], float] | None = _plain_replay
    evaluation: Callable[[Any, TrainOptions], float] = _one_batch
    forwards: Callable[[TrainOptions, int], float] = _spsa_forwards


def query_count(options: TrainOptions) -> Any:
    """Queries a step as the optimizers take them: a number, or the schedule over epochs."""
    if options.num_queries is not None:
        return options.num_queries
    from zokern.optim import QuerySchedule

    assert options.train_size is not None and options.batch_size is not None  # resolved
    per_epoch = -(-options.train_size // options.batch_size)
    return QuerySchedule(options.query_alpha, options.query_beta, options.query_max, per_epoch)


def queries_at(options: TrainOptions, step: int) -> int:
    """Queries of step `step` (from 0)."""
    count = query_count(options)
    return count if isinstance(count, int) else count.queries(step // count.steps_per_epoch)


def _common(options: TrainOptions, *names: str) -> dict[str, Any]:
    """What every zeroth-order optimizer takes, and the options in `names`."""
    taken = ("lr", "eps", "weight_decay", "restore", "lazy", "rounding", "seed", *names)
    return {name: getattr(options, name) for name in taken}


_SPSA = ("one_sided", "distribution")


def _mezo(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import MeZO

    return MeZO(model, num_queries=query_count(options), **_common(options, "momentum", *_SPSA))


def _adazeta(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import AdaZeta

    more = _common(options, "queries", "max_parallel", "distribution")
    return AdaZeta(model, schedule=query_count(options), **more)


def _adaptive(name: str) -> Callable[[nn.Module, TrainOptions], Any]:
    def build(model: nn.Module, options: TrainOptions) -> Any:
        import zokern.optim

        kind = getattr(zokern.optim, name)
        more = _common(options, "betas", "adam_eps", *_SPSA)
        return kind(model, num_queries=query_count(options), **more)

    return build


def _adamu(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import ZOAdaMU

    more = _common(options, "orient_momentum")
    return ZOAdaMU(model, schedule=options.steps, num_queries=query_count(options), **more)


def _mezo_svrg(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import MeZOSVRG

    more = _common(options, "lr_minibatch", "interval", "snapshot", "distribution")
    return MeZOSVRG(model, num_queries=query_count(options), **more)


def _mezo_svrg_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.batch, full_closure=closures.full))


def _full_or_mini(optimizer: Any, options: TrainOptions) -> float:
    return full_size(options) / _batch(options) if optimizer.next_is_full else 1.0


def _mezo_svrg_forwards(options: TrainOptions, step: int) -> float:
    queries = queries_at(options, step)
    if step % options.interval == 0:
        return 2.0 * queries * full_size(options) / _batch(options)
    return 4.0 * queries


def _batch(options: TrainOptions) -> int:
    assert options.batch_size is not None  # resolved
    return options.batch_size


def full_size(options: TrainOptions) -> int:
    """Examples of the full batch."""
    assert options.train_size is not None  # resolved
    return min(options.full_batch_size, options.train_size)


def _zo_svrg(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import ZOSVRG

    more = _common(options, "interval", "snapshot", "distribution")
    return ZOSVRG(model, num_samples=full_size(options), **more)


def _zo_svrg_samples(progress: Progress) -> list[int]:
    """The mini-batch of a step: places in the full batch."""
    from zokern.training.data import batch_indices

    options, n = progress.options, full_size(progress.options)
    return batch_indices(options.seed, progress.step, min(_batch(options), n), n)


def _zo_svrg_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.sample, _zo_svrg_samples(progress)))


def _zo_svrg_replay(optimizer: Any, losses: list[float], progress: Progress) -> float:
    return float(optimizer.replay_step(losses, _zo_svrg_samples(progress)))


def _one_sample(optimizer: Any, options: TrainOptions) -> float:
    return 1.0 / _batch(options)


def _zo_svrg_forwards(options: TrainOptions, step: int) -> float:
    if step % options.interval == 0:
        return 2.0 * full_size(options) / _batch(options)
    return 4.0 * min(1.0, full_size(options) / _batch(options))


def _sparse_mezo(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import BlockSchedule, SparseMeZO

    blocks = None
    if options.blocks is not None:
        blocks = BlockSchedule(options.blocks, order="random", seed=options.seed)
    return SparseMeZO(
        model,
        num_queries=query_count(options),
        refresh=options.mask_refresh,
        blocks=blocks,
        **_common(options, "sparsity", *_SPSA),
    )


def _fo_adamw(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.training.first_order import FirstOrder

    assert options.lr is not None and options.weight_decay is not None  # resolved
    lr, decay, eps = options.lr, options.weight_decay, options.adam_eps
    return FirstOrder(
        model, lambda p: torch.optim.AdamW(p, lr=lr, betas=options.betas, eps=eps, weight_decay=decay)
    )


def _fo_sgd(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.training.first_order import FirstOrder

    assert options.lr is not None and options.weight_decay is not None  # resolved
    lr, decay, momentum = options.lr, options.weight_decay, options.momentum
    return FirstOrder(model, lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum, weight_decay=decay))


def _fo_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.tensor))


_ANY_ZO = frozenset({"eps", "restore", "lazy", "rounding"})
_QUERIES = frozenset({"num_queries", "query_schedule", "query_alpha", "query_beta", "query_max"})
_ESTIMATE = _ANY_ZO | _QUERIES | {"one_sided", "distribution"}
_ADAM = _ESTIMATE | {"betas", "adam_eps"}
_SVRG = _ANY_ZO | {"interval", "full_batch_size", "snapshot", "distribution"}


def _first_order(build: Callable[[nn.Module, TrainOptions], Any], summary: str, *reads: str) -> Method:
    return Method(
        build,
        f"{summary}, with backward passes",
        frozenset(reads),
        step=_fo_step,
        replay=None,
        evaluation=lambda optimizer, options: FIRST_ORDER_STEP,
        forwards=lambda options, step: FIRST_ORDER_STEP,
    )


METHODS: dict[str, Method] = {
    "mezo": Method(_mezo, "two forward passes a step (Malladi et al. 2023)", _ESTIMATE | {"momentum"}),
    "adazeta": Method(
        _adazeta,
        "queries that grow with the epoch (Yang et al. 2024)",
        _ANY_ZO | _QUERIES | {"distribution", "queries", "max_parallel"},
    ),
    "zo-adam": Method(_adaptive("ZOAdam"), "Adam on the estimate (MeZO-Adam)", _ADAM),
    "zo-adamw": Method(_adaptive("ZOAdamW"), "the same with decoupled weight decay", _ADAM),
    "zo-adamax": Method(_adaptive("ZOAdaMax"), "the same with the largest estimate below", _ADAM),
    "zo-adamm": Method(_adaptive("ZOAdaMM"), "AMSGrad on the estimate (Chen et al. 2019)", _ADAM),
    "zo-adamu": Method(
        _adamu,
        "momentum and annealed uncertainty in the perturbation (Jiang et al. 2024)",
        _ANY_ZO | _QUERIES | {"orient_momentum"},
    ),
    "mezo-svrg": Method(
        _mezo_svrg,
        "mini-batch noise taken out with a full batch now and then (Gautam et al. 2024)",
        _SVRG | _QUERIES | {"lr_minibatch"},
        step=_mezo_svrg_step,
        evaluation=_full_or_mini,
        forwards=_mezo_svrg_forwards,
    ),
    "zo-svrg": Method(
        _zo_svrg,
        "a direction for every sample, to compare with (Liu et al. 2018)",
        _SVRG,
        step=_zo_svrg_step,
        replay=_zo_svrg_replay,
        evaluation=_one_sample,
        forwards=_zo_svrg_forwards,
    ),
    "sparse-mezo": Method(
        _sparse_mezo,
        "only the small weights, or some layers a step (Liu et al. 2024)",
        _ESTIMATE | {"sparsity", "mask_refresh", "blocks"},
    ),
    "fo-adamw": _first_order(_fo_adamw, "first-order AdamW", "betas", "adam_eps"),
    "fo-sgd": _first_order(_fo_sgd, "first-order SGD", "momentum"),
}


def check_method(options: TrainOptions) -> Method:
    """The method named in the options.

    Raises:
        UserError: it is unknown, or an option was changed that it does not read.
    """
    if options.method not in METHODS:
        raise UserError(f"Unknown method {options.method!r}; known: {', '.join(METHODS)}.")
    method = METHODS[options.method]
    if method.reads is not None:
        special = frozenset[str]().union(*(m.reads or () for m in METHODS.values()))
        for field in dataclasses.fields(options):
            unread = field.name in special and field.name not in method.reads
            if unread and getattr(options, field.name) != field.default:
                readers = [name for name, m in METHODS.items() if field.name in (m.reads or ())]
                raise UserError(
                    f"--method {options.method} does not read --{field.name.replace('_', '-')}; drop it "
                    f"(it is for {', '.join(readers)})."
                )
    return method


def build_optimizer(model: nn.Module, options: TrainOptions) -> tuple[Method, Any]:
    """The method named in the options and its optimizer over `model`'s trainable parameters.

    Raises:
        UserError: unknown method, or options it rejects.
    """
    if options.method not in METHODS:
        raise UserError(f"Unknown method {options.method!r}; known: {', '.join(METHODS)}.")
    method = METHODS[options.method]
    try:
        return method, method.build(model, options)
    except (ValueError, TypeError) as error:
        raise UserError(f"Method {options.method} rejects its options: {error}") from None
