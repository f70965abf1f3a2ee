"""Runs whose steps are skipped, because no update they give is finite: an error that says which option it is."""

from __future__ import annotations

import math

from zokern.app.options import TrainOptions
from zokern.app.tasks import UserError
from zokern.app.training.run import Run

__all__ = ["advice", "refuse_unlearned"]


def refuse_unlearned(run: Run, closing_loss: float) -> None:
    """Raises `UserError` at the end of a run whose every step was skipped, or whose weights are of no use."""
    rows = [row for row in run.metrics_log.rows if row["kind"] == "step"]
    if rows and all(row.get("skipped") for row in rows):
        losses = run.optimizer.last.losses or [
            math.nan if row["loss"] is None else row["loss"] for row in rows
        ]
        raise UserError(
            f"No update was finite in any of the {len(rows)} steps: nothing was learned. "
            f"{advice(run.options, losses)} What was written is in {run.folder.path}."
        )
    if not math.isfinite(closing_loss):
        raise UserError(
            f"The loss after training is {closing_loss:g}: the weights are of no use. "
            f"{advice(run.options, [closing_loss])} What was written is in {run.folder.path}."
        )


def advice(options: TrainOptions, losses: list[float]) -> str:
    """Which option it is, by the losses of a step that was skipped."""
    seen = ", ".join(f"{loss:g}" for loss in losses[:4]) + (", ..." if len(losses) > 4 else "")
    rates = f"--lr {options.lr:g}" + ("" if options.eps is None else f", --eps {options.eps:g}")
    rates += f", --weight-decay {options.weight_decay:g}" if options.weight_decay else ""
    rates += f", --lora-alpha {options.lora_alpha:g}" if options.tuning == "lora" else ""
    if all(map(math.isfinite, losses)):
        return (
            f"The losses are finite (the last step's: {seen}) and the steps they give are not: {rates} do not fit. "
            "Try a smaller --lr or a larger --eps."
        )
    return (
        f"The losses are not finite (the last step's: {seen}), with {rates} and --dtype {options.dtype}. Try a "
        "smaller --lr or --eps, or --dtype fp32."
    )
