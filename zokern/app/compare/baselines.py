"""What the methods are compared with that takes no optimizer, each through the library that does it.

zero-shot      the model as it comes
icl            in-context learning: solved examples in the prompt (causal models)
linear-probe   scikit-learn's logistic regression on frozen features
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from zokern.app.models import Classifier, PromptedClassifier
from zokern.app.tasks import Task, TextTask, UserError
from zokern.app.training.display import Display
from zokern.app.training.loop import test_logits

__all__ = ["BASELINES", "Outcome", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a baseline may use.

    Args:
        batch_size: examples of a forward pass, the unit in which passes are counted.
        eval_batch_size: examples run at once.
        shots: examples in an in-context prompt.
        seed: of the choice of those.
    """

    batch_size: int
    eval_batch_size: int
    shots: int
    seed: int
    display: Display


@dataclass(frozen=True)
class Outcome:
    """Logits [n, classes] of the test set, and what was spent before testing."""

    logits: torch.Tensor
    forwards: float = 0.0
    seconds: float = 0.0
    trained: int = 0


def _zero_shot(model: Classifier, task: Task, setting: Setting) -> Outcome:
    return Outcome(test_logits(model, task, setting.eval_batch_size, setting.display, "testing"))


def _icl(model: Classifier, task: Task, setting: Setting) -> Outcome:
    if not isinstance(model, PromptedClassifier) or not isinstance(task, TextTask):
        raise UserError("In-context learning needs a language model scored by label words.")
    draw = random.Random(setting.seed)
    by_class = [[e for e in task.train if e.label == c] for c in range(len(task.labels))]
    by_class = [examples for examples in by_class if examples]  # of some there are test rows only
    for examples in by_class:
        draw.shuffle(examples)
    turns = [e for row in zip(*by_class) for e in row]  # classes alternate; short ones run out first
    shown = turns[: setting.shots]
    if len(shown) < setting.shots:
        shown = shown + [e for e in draw.sample(list(task.train), len(task.train)) if e not in shown]
        shown = shown[: setting.shots]
    draw.shuffle(shown)
    model.show(shown)
    return Outcome(test_logits(model, task, setting.eval_batch_size, setting.display, "testing"))


def _linear_probe(model: Classifier, task: Task, setting: Setting) -> Outcome:
    r"""argmax_W sum log softmax(W f(x) + b)_y - |W|^2 / 2 on features of unit variance."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise UserError("linear-probe needs scikit-learn: pip install 'zokern[train]'.") from None
    started = time.perf_counter()
    n, size = task.train_length, setting.eval_batch_size
    train, labels = _features(model, task, "train", n, size, setting.display)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train.numpy(), labels.numpy())
    seconds = time.perf_counter() - started
    test, _ = _features(model, task, "test", len(task.test_labels), size, setting.display)
    logits = torch.full((len(test), len(task.labels)), -1e4)
    logits[:, probe[-1].classes_] = torch.from_numpy(probe.predict_log_proba(test.numpy())).float()
    trained = probe[-1].coef_.size + probe[-1].intercept_.size
    return Outcome(logits, n / setting.batch_size, seconds, trained)


def _features(
    model: Classifier, task: Task, split: str, n: int, batch_size: int, display: Display
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [n, d] and labels [n], run in batches of similar length."""
    order = sorted(range(n), key=lambda index: (model.length(task, split, index), index))
    rows: list[torch.Tensor] = []
    found: list[torch.Tensor] = []
    with torch.no_grad(), display.counter(f"features of the {split} set", n) as advance:
        for first in range(0, n, batch_size):
            batch, labels = model.collate(task, split, order[first : first + batch_size])
            rows.append(model.features(batch).cpu())
            found.append(labels.cpu())
            advance(len(labels))
    back = torch.tensor(order).argsort()
    return torch.cat(rows)[back], torch.cat(found)[back]


BASELINES: dict[str, Callable[[Classifier, Task, Setting], Outcome]] = {
    "zero-shot": _zero_shot,
    "icl": _icl,
    "linear-probe": _linear_probe,
}
