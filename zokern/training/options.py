"""Everything a run is asked for, checked, and completed from the task's and tuning's defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from zokern.tasks import Task, UserError
from zokern.training.rates import default_options, default_tuning

__all__ = ["DTYPES", "SCHEDULES", "TrainOptions"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCHEDULES = ("constant", "linear", "cosine")
_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": tuple(DTYPES),
    "lr_schedule": SCHEDULES,
    "distribution": ("gaussian", "rademacher"),
    "restore": ("auto", "inplace", "exact", "snapshot"),
    "rounding": ("stochastic", "nearest"),
    "scoring": ("auto", "label-words", "head"),
    "queries": ("loop", "parallel"),
    "snapshot": ("replay", "copy"),
}


@dataclass
class TrainOptions:
    """The options of `zokern train`; None means "the task's or tuning's default".

    `resolve` fills the Nones in, after which the options say all there is to say about the run and
    are written to config.json.
    """

    task: str = "mr"
    model: str | None = None
    method: str = "mezo"
    tuning: str | None = None
    scoring: str = "auto"

    # data
    prompt: str | None = None
    answer: str | None = None
    label_words: tuple[str, ...] | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    task_config: str | None = None
    chat: bool | None = None
    max_words: int | None = None
    max_length: int = 512
    train_size: int | None = None
    test_size: int = 500

    # tuning
    train_modules: tuple[str, ...] = ()
    last_layers: int = 2
    lora_rank: int = 4
    lora_alpha: float = 32.0
    lora_targets: tuple[str, ...] = ()
    bottleneck: int = 64
    rank: int = 5
    prefix_tokens: int = 5

    # optimizer
    lr: float | None = None
    eps: float | None = None
    num_queries: int | None = None
    query_schedule: bool = False
    query_alpha: float = 0.85
    query_beta: float = 0.45
    query_max: int = 20
    queries: str = "loop"
    max_parallel: int | None = None
    one_sided: bool = False
    distribution: str = "gaussian"
    weight_decay: float | None = None
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    orient_momentum: bool = False
    interval: int = 5
    full_batch_size: int = 64
    lr_minibatch: float | None = None
    snapshot: str = "replay"
    sparsity: float = 0.75
    mask_refresh: int | None = None
    blocks: int | None = None
    lr_schedule: str | None = None
    warmup_steps: int = 0
    restore: str = "auto"
    lazy: bool = True
    rounding: str = "stochastic"

    # run
    dtype: str = "fp32"
    device: str = "auto"
    steps: int | None = None
    batch_size: int | None = None
    eval_every: int = 0
    eval_size: int | None = None
    eval_before: bool = True
    eval_batch_size: int = 32
    checkpoint_every: int = 50
    seed: int = 0
    threads: int | None = None
    out: str | None = None

    def check(self) -> None:
        """Raises `UserError` naming the first option whose value cannot be."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise UserError(f"{_flag(name)} must be one of {', '.join(choices)}, got {value!r}.")
        positive: tuple[str, ...] = ("lr", "eps", "num_queries", "steps", "batch_size", "eval_batch_size")
        positive += ("max_words", "max_length", "train_size", "test_size", "lora_rank")
        positive += ("lora_alpha", "last_layers", "checkpoint_every", "threads", "bottleneck", "rank")
        positive += ("query_alpha", "query_max", "max_parallel", "prefix_tokens", "adam_eps", "interval")
        positive += ("full_batch_size", "lr_minibatch", "mask_refresh", "blocks", "eval_size")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{_flag(name)} must be positive, got {value!r}.")
        for name in ("weight_decay", "warmup_steps", "eval_every", "momentum", "query_beta"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError(f"{_flag(name)} must not be negative, got {value!r}.")
        if self.momentum >= 1:
            raise UserError(f"--momentum must be below 1, got {self.momentum!r}.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            given = ",".join(f"{beta:g}" for beta in self.betas)
            raise UserError(f"--betas must be two numbers in [0, 1), as 0.9,0.999, got {given}.")
        if not 0 <= self.sparsity < 1:
            raise UserError(f"--sparsity must be in [0, 1), got {self.sparsity!r}.")
        if not 0 <= self.seed < 1 << 64:
            raise UserError(f"--seed must be in [0, 2^64), got {self.seed}.")
        if self.query_schedule and self.num_queries is not None:
            raise UserError(f"--query-schedule says how many; drop --num-queries {self.num_queries}.")
        if self.queries == "parallel" and self.method != "adazeta":
            raise UserError(f"--queries parallel goes with --method adazeta, got {self.method}.")
        if self.train_modules and self.tuning not in (None, "modules"):
            raise UserError(f"--train-modules says what to train by itself; drop --tuning {self.tuning}.")

    def resolve(self, task: Task) -> TrainOptions:
        """A copy with every None that has a default filled in from `task` and the tuning."""
        done = dataclasses.replace(self)
        done.model = done.model or task.default_model
        if done.tuning is None:
            usual = default_tuning(done.method, done.model)
            done.tuning = "modules" if done.train_modules else usual
        defaults = default_options(task.name, done.model, done.method, done.tuning)
        defaults.update(task.defaults)
        share = defaults.pop("lr_minibatch", None)
        if done.method == "adazeta" or done.query_schedule:
            defaults.pop("num_queries", None)  # None: the schedule
        for name, value in defaults.items():
            if getattr(done, name) is None:
                setattr(done, name, value)
        if share is not None and done.lr_minibatch is None:
            assert done.lr is not None  # filled in above
            done.lr_minibatch = share * done.lr
        done.train_size = min(done.train_size or task.train_length, task.train_length)
        assert done.batch_size is not None  # filled in above
        if done.batch_size > done.train_size:
            raise UserError(
                f"--batch-size {done.batch_size} is more than the {done.train_size} training examples."
            )
        if done.device == "auto":
            done.device = "cuda" if torch.cuda.is_available() else "cpu"
        return done

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainOptions:
        """The inverse of `as_dict` after a round trip through JSON."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"config.json holds options this version does not know: {unknown[0]}.")
        return cls(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}  # type: ignore[arg-type]
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def lr_factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with at `step` (counted from 0); a pure function, so a
    resumed run sees the same rates."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
