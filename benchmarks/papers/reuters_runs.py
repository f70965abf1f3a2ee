"""One run of `reuters_svrg`: its settings, what it may cost, and model and data of a tuning."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from zokern.app.models import load_classifier
from zokern.app.tasks import load_task
from zokern.app.tuning import TuningOptions, apply_tuning
from zokern.ops import perturb_
from zokern.optim import MeZO, MeZOSVRG, weighted_mean

from .numbers import short
from .texts import Texts, tiny_model, tiny_task

EPS = 1e-3
WORDS = 8  # of each story, about its headline, so that two cores are enough


@dataclass(frozen=True)
class Setting:
    """A method at its rates."""

    method: str
    lr: float
    batch: int
    lr_minibatch: float = 0.0
    interval: int = 0

    def __str__(self) -> str:
        if self.method != "MeZO-SVRG":
            return f"lr {short(self.lr)}, batch {self.batch}"
        return f"η₁ {short(self.lr)}, η₂ {short(self.lr_minibatch)}, q {self.interval}, batch {self.batch}"


@dataclass(frozen=True)
class Sizes:
    """What a run may cost, in queries, and examples."""

    train: int = 512
    test: int = 256
    full: int = 4_096
    partial: int = 16_384
    search_full: int = 4_096
    search_partial: int = 8_192
    first_order: int = 1_024
    full_marks: int = 2
    partial_marks: int = 4
    directions: int = 4


QUICK = Sizes(
    train=48,
    test=16,
    full=400,
    partial=400,
    search_full=200,
    search_partial=200,
    first_order=64,
    directions=2,
)


class Bench:
    """Model, data and start of one tuning."""

    def __init__(self, tuning: str, sizes: Sizes, quick: bool, folder: Any) -> None:
        self.sizes = sizes
        if quick:
            task = tiny_task(sizes.train, sizes.test)
            name = str(tiny_model("encoder", folder / "tiny"))
        else:
            task, name = load_task("reuters", train_size=sizes.train, test_size=sizes.test), "minilm"
        model = load_classifier(name, task, max_words=WORDS)
        layers = 1 if tuning == "partial" else None
        apply_tuning("last-layers" if layers else "full", model, TuningOptions(last_layers=1))
        self.texts = Texts(model, task, frozen_below=layers)
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.params]
        self.train, self.test = self.texts.split("train"), self.texts.split("test")
        self.origin = self.point(0)

    @torch.no_grad()
    def reset(self) -> None:
        for p, start in zip(self.params, self.start):
            p.copy_(start)

    def run(
        self, setting: Setting, seed: int, budget: int, marks: int, noise: bool = False
    ) -> dict[str, Any]:
        """Trains for `budget` queries; loss and accuracies at `marks` equal parts of it; then r_1."""
        self.reset()
        texts, spent, step = self.texts, 0, 0
        points = [self.origin]
        optimizer = self.optimizer(setting, seed)
        full = weighted_mean(texts.loss, self.train, [len(labels) for _, labels in self.train])
        while spent < budget:
            batch = texts.step_batch(seed, step, setting.batch)
            step += 1
            if isinstance(optimizer, MeZOSVRG):
                spent += 2 * self.sizes.train if optimizer.next_is_full else 4 * setting.batch
                optimizer.step(partial(texts.loss, batch), full_closure=full)
            elif isinstance(optimizer, MeZO):
                spent += 2 * setting.batch
                optimizer.step(partial(texts.loss, batch))
            else:
                spent += setting.batch
                optimizer.zero_grad()
                texts.loss(batch).backward()
                optimizer.step()
            if spent >= budget * len(points) / marks:
                points.append(self.point(spent))
        return {"steps": step, "points": points, **({"noise": self.noise()} if noise else {})}

    def optimizer(self, setting: Setting, seed: int) -> Any:
        model = self.texts.model
        if setting.method == "FO-SGD":
            return torch.optim.SGD(self.params, lr=setting.lr)
        if setting.method == "MeZO":
            return MeZO(model, lr=setting.lr, eps=EPS, seed=seed)
        return MeZOSVRG(
            model, lr=setting.lr, lr_minibatch=setting.lr_minibatch, interval=setting.interval, eps=EPS, seed=seed
        )  # fmt: skip

    def point(self, spent: int) -> list[float]:
        """[queries, training loss, training accuracy, test accuracy]."""
        train, test = self.texts.score(self.train), self.texts.score(self.test)
        return [spent, train.loss, train.accuracy, test.accuracy]

    @torch.no_grad()
    def noise(self) -> float:
        """r_1: variance over samples of their slopes along z, over the mean square of the mean slope."""
        square = variance = 0.0
        for seed in range(self.sizes.directions):
            losses = []
            for move in (EPS, -2 * EPS):
                perturb_(self.params, seed, move)
                losses.append(self.losses())
            perturb_(self.params, seed, EPS)
            slopes = (losses[0] - losses[1]) / (2 * EPS)
            square += slopes.mean().item() ** 2
            variance += slopes.var().item()
        return variance / square

    def losses(self) -> torch.Tensor:
        each = [F.cross_entropy(self.texts.model(batch), y, reduction="none") for batch, y in self.train]
        return torch.cat(each)
