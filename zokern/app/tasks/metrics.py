"""Accuracy, and accuracy with the label prior taken out."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

__all__ = ["Evaluation", "calibrated_predictions", "evaluate_logits"]


@dataclass(frozen=True)
class Evaluation:
    """What one pass over the test set says.

    Args:
        accuracy: share of examples whose largest logit is the right class.
        calibrated_accuracy: the same after removing the prior, see `calibrated_predictions`.
        loss: mean cross-entropy, nats.
        majority: share of the most frequent class, what a constant answer would reach.
        predicted: share of the examples given to each class.
        examples: size of the test set.
    """

    accuracy: float
    calibrated_accuracy: float
    loss: float
    majority: float
    predicted: tuple[float, ...]
    examples: int

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def calibrated_predictions(logits: torch.Tensor) -> torch.Tensor:
    """Classes after removing the model's preference for some label words.

    Two classes: s = logit_1 - logit_0 against its own median over the set, so that half the set
    falls on each side. More classes: log-probabilities minus their mean over the set (batch
    calibration, Zhou et al. 2024). No label is read, but the test inputs are, as a set.

    Args:
        logits: [n, classes].

    Returns:
        int64 [n].
    """
    logits = logits.double()
    if logits.shape[1] == 2:
        score = logits[:, 1] - logits[:, 0]  # [n]
        ordered = score.sort().values
        middle = (ordered[(len(score) - 1) // 2] + ordered[len(score) // 2]) / 2
        return (score > middle).long()
    log_probs = F.log_softmax(logits, dim=1)
    return (log_probs - log_probs.mean(dim=0)).argmax(dim=1)


def evaluate_logits(logits: torch.Tensor, labels: torch.Tensor) -> Evaluation:
    """Scores logits [n, classes] against labels int64 [n]."""
    predictions = logits.argmax(dim=1)
    count = torch.bincount(labels, minlength=logits.shape[1])
    given = torch.bincount(predictions, minlength=logits.shape[1])
    return Evaluation(
        accuracy=(predictions == labels).double().mean().item(),
        calibrated_accuracy=(calibrated_predictions(logits) == labels).double().mean().item(),
        loss=F.cross_entropy(logits.double(), labels).item(),
        majority=count.max().item() / len(labels),
        predicted=tuple(share / len(labels) for share in given.tolist()),
        examples=len(labels),
    )
