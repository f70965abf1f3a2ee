"""The training loop.

A step is: batch from (seed, step); the optimizer's evaluations; one log line. What makes a resumed
run the same run, bit for bit:

    steps in the log are repeated from their logged losses (`replay_step`), no forward;
    a method that cannot do that starts again at its last checkpoint
    pending updates land at the same steps in both: each evaluation, each checkpoint, the end
    learning rates and batches are functions of the step
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from zokern.app.data import batch_indices, full_sample
from zokern.app.methods import Closures, Progress, full_size
from zokern.app.models import Classifier
from zokern.app.options import lr_factor
from zokern.app.tasks import Evaluation, Task, UserError, evaluate_logits
from zokern.app.training.checkpoint import save_checkpoint
from zokern.app.training.display import Display, StepLine
from zokern.app.training.log import encode_values, read_steps
from zokern.app.training.memory import peak_memory, reset_peak_memory
from zokern.app.training.run import Run
from zokern.app.training.skipped import advice

__all__ = ["Stopped", "evaluate", "test_logits", "train"]

# So many steps in a row without a finite update end the run.
_MAX_SKIPPED = 20


class Stopped(Exception):
    """Ctrl-C or a termination signal; `step` whole steps are in the log of `folder`."""

    def __init__(self, step: int, folder: Path) -> None:
        super().__init__(f"stopped after step {step}")
        self.step, self.folder = step, folder


@dataclass
class Result:
    """What a finished run says.

    Args:
        evaluations: step -> evaluation.
        train_seconds: spent in steps by this process, evaluations not included.
        steps_run: steps this process took with forwards.
        outside_share: share of `train_seconds` outside the forwards.
        peak_memory: most bytes held during the steps, by this process; tests and checkpoints are left out.
    """

    evaluations: dict[int, Evaluation]
    train_seconds: float
    steps_run: int
    outside_share: float
    peak_memory: int


def evaluate(run: Run, display: Display, what: str, size: int | None = None) -> Evaluation:
    """Scores the test set, or its first `size` examples, in batches of similar length."""
    run.optimizer.flush()
    logits = test_logits(run.model, run.task, run.options.eval_batch_size, display, what, size)
    return evaluate_logits(logits, torch.tensor(run.task.test_labels[:size]))


def test_logits(
    model: Classifier, task: Task, batch_size: int, display: Display, what: str, size: int | None = None
) -> torch.Tensor:
    """Logits [n, classes] of the test set, or of its first `size` examples."""
    labels = task.test_labels[:size]
    order = sorted(range(len(labels)), key=lambda index: (model.length(task, "test", index), index))
    logits = torch.zeros(len(labels), len(task.labels))
    with torch.no_grad(), display.counter(what, len(labels)) as advance:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch, _ = model.collate(task, "test", chosen)
            logits[chosen] = model(batch).cpu()
            advance(len(chosen))
    return logits


def train(run: Run, display: Display) -> Result:
    """Runs the steps that are left.

    Raises:
        Stopped: interrupted; everything up to its `step` is on disk.
        UserError: the loss stopped being finite, or the disk is full.
    """
    loop = _Loop(run, display)
    try:
        with warnings.catch_warnings():
            # A skipped step is shown and counted here, not warned about.
            warnings.filterwarnings("ignore", message=".*is skipped: its losses.*")
            return loop.run_all()
    except KeyboardInterrupt:
        # Read again: the interrupt may have come right behind a line that no counter knows of yet.
        logged = read_steps(run.steps_log.again())
        raise Stopped(max(logged, default=run.done), run.folder.path) from None


class _Loop:
    def __init__(self, run: Run, display: Display) -> None:
        self.run, self.display = run, display
        options = run.options
        assert options.steps is not None and options.batch_size is not None  # resolved
        self.steps, self.batch_size = options.steps, options.batch_size
        self.n = run.task.train_length
        self.skipped = 0
        self.seconds = self.outside = 0.0
        self.steps_run = 0
        rows = run.metrics_log.rows
        self.known_steps = {row["step"] for row in rows if row["kind"] == "step"}
        self.evaluations = {row["step"]: _evaluation(row) for row in rows if row["kind"] == "eval"}
        self.full_indices = full_sample(options.seed, full_size(options), self.n)
        self.device, self.peak = torch.device(options.device), 0
        self.full_batches: list[tuple[Any, torch.Tensor]] = []

    def run_all(self) -> Result:
        run = self.run
        if run.method.replay is None:
            self.fill_in()
        if run.done == 0 and run.options.eval_before:
            self.evaluate_once(0)
        reset_peak_memory(self.device)
        # Re-walking may pass by evaluations that a kill prevented; evaluate_once fills them in.
        with self.display.steps(self.steps, run.done + len(run.logged)) as line:
            for step in range(run.done + 1, self.steps + 1):
                if step in run.logged:
                    self.replay(step)
                else:
                    self.step(step, line)
                self.after(step, line)
        self.note_peak()
        run.optimizer.flush()
        self.evaluate_once(max(self.steps, run.done))
        return Result(
            self.evaluations,
            self.seconds,
            self.steps_run,
            self.outside / self.seconds if self.seconds else 0.0,
            self.peak,
        )

    def step(self, step: int, line: StepLine) -> None:
        """One real step: forwards, update, log."""
        run, optimizer = self.run, self.run.optimizer
        self.set_rates(step)
        length = functools.partial(run.model.length, run.task, "train")
        started = time.perf_counter()
        inside = [0.0]
        indices = batch_indices(run.options.seed, step - 1, self.batch_size, self.n, length)
        batch = run.model.collate(run.task, "train", indices)
        closures = Closures(
            batch=self.timed(lambda: self.loss(*batch).item(), inside),
            full=self.timed(self.full_loss, inside),
            sample=self.timed(self.sample_loss, inside),
            tensor=self.timed(lambda: self.loss(*batch), inside),
        )
        cost = run.method.evaluation(optimizer, run.options)
        loss = run.method.step(optimizer, closures, self.progress(step))
        seconds = time.perf_counter() - started
        run.steps_log.append({"step": step, "values": encode_values(optimizer.last.losses)})
        outside = max(0.0, seconds - inside[0])
        self.seconds, self.outside = self.seconds + seconds, self.outside + outside
        self.steps_run += 1
        self.count_skipped(loss)
        self.write_metrics(step, loss, cost, seconds, outside)
        line.update(step, loss, seconds, outside)
        if self.skipped >= _MAX_SKIPPED:
            raise UserError(
                f"No update was finite in {self.skipped} steps in a row, up to step {step}; the weights were left "
                f"alone since. {advice(run.options, optimizer.last.losses)}"
            )

    def replay(self, step: int) -> None:
        """One step from the log: the same moves, no forward."""
        run = self.run
        self.set_rates(step)
        assert run.method.replay is not None  # else nothing is logged beyond the checkpoint
        cost = run.method.evaluation(run.optimizer, run.options)
        try:
            loss = run.method.replay(run.optimizer, run.logged[step], self.progress(step))
        except ValueError as error:
            raise UserError(f"{run.steps_log.path} does not fit this run at step {step}: {error}.") from None
        self.count_skipped(loss)
        if step not in self.known_steps:
            self.write_metrics(step, loss, cost, None, None)

    def fill_in(self) -> None:
        """Rows that metrics.jsonl lacks of steps that are not repeated, from the log."""
        cost = self.run.method.evaluation(self.run.optimizer, self.run.options)
        for step, losses in read_steps(self.run.steps_log).items():
            if step <= self.run.done and step not in self.known_steps and losses:
                self.set_rates(step)
                self.write_metrics(step, sum(losses) / len(losses), cost, None, None, losses)

    def after(self, step: int, line: StepLine) -> None:
        """Evaluations and checkpoints at their steps; both land what is pending, and so does a
        replayed step where the original landed."""
        run, options = self.run, self.run.options
        if self.pauses(step):
            self.note_peak()
        if options.eval_every and step % options.eval_every == 0 and step < self.steps:
            run.optimizer.flush()
            if step not in self.evaluations:
                line.bar.stop()
                self.evaluate_once(step)
                line.bar.start()
        if step % options.checkpoint_every == 0 or step == self.steps:
            run.optimizer.flush()
            run.steps_log.sync()  # a power cut must not leave a log shorter than its checkpoint
            check = run.steps_log.checks.get(step)
            save_checkpoint(run.folder.path, step, run.model, run.optimizer, check)
        if self.pauses(step):
            reset_peak_memory(self.device)

    def pauses(self, step: int) -> bool:
        """Whether there is a test or a checkpoint after this step."""
        options = self.run.options
        tested = bool(options.eval_every) and step % options.eval_every == 0
        return tested or step % options.checkpoint_every == 0 or step == self.steps

    def note_peak(self) -> None:
        self.peak = max(self.peak, peak_memory(self.device))

    def evaluate_once(self, step: int) -> None:
        if step in self.evaluations:
            return
        what = "testing before training" if step == 0 else f"testing after step {step}"
        between = 0 < step < self.steps
        evaluation = evaluate(self.run, self.display, what, self.run.options.eval_size if between else None)
        self.evaluations[step] = evaluation
        row = {"kind": "eval", "step": step, **evaluation.as_dict()}
        self.run.metrics_log.append(row)
        self.run.metrics_log.rows.append(row)
        self.display.say(f"{what}: accuracy {100 * evaluation.accuracy:.1f} %")

    def set_rates(self, step: int) -> None:
        options = self.run.options
        assert options.lr_schedule is not None  # resolved
        factor = lr_factor(options.lr_schedule, step - 1, self.steps, options.warmup_steps)
        for group in self.run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def progress(self, step: int) -> Progress:
        epoch = (step - 1) * self.batch_size // self.n
        return Progress(step - 1, epoch, self.steps, self.run.options)

    def timed(self, evaluate: Callable[..., Any], inside: list[float]) -> Callable[..., Any]:
        """`evaluate`, its time added to `inside`."""

        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            value = evaluate(*arguments)
            inside[0] += time.perf_counter() - started
            return value

        return call

    def loss(self, batch: Any, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.run.model(batch), labels)

    def full_loss(self) -> float:
        """Mean loss of the full batch, a part of similar lengths at a time: memory does not grow with
        its size."""
        if not self.full_batches:
            run, size = self.run, self.run.options.eval_batch_size
            key = functools.partial(run.model.length, run.task, "train")
            order = sorted(self.full_indices, key=key)
            parts = [order[first : first + size] for first in range(0, len(order), size)]
            self.full_batches = [run.model.collate(run.task, "train", part) for part in parts]
        total = sum(len(labels) * self.loss(batch, labels).item() for batch, labels in self.full_batches)
        return total / len(self.full_indices)

    def sample_loss(self, i: int) -> float:
        index = self.full_indices[i]
        return self.loss(*self.run.model.collate(self.run.task, "train", [index])).item()

    def write_metrics(
        self,
        step: int,
        loss: float,
        cost: float,
        seconds: float | None,
        outside: float | None,
        losses: list[float] | None = None,
    ) -> None:
        """Adds a step's row; `losses` where the optimizer does not have them."""
        losses = self.run.optimizer.last.losses if losses is None else losses
        row = {
            "kind": "step",
            "step": step,
            "loss": loss if math.isfinite(loss) else None,
            "skipped": self.skipped > 0,
            "lr": self.run.optimizer.param_groups[0]["lr"],
            "epoch": self.progress(step).epoch,
            "evaluations": len(losses),
            "forwards": cost * len(losses),
            "seconds": seconds,
            "seconds_outside_forward": outside,
        }
        self.run.metrics_log.append(row)
        self.run.metrics_log.rows.append(row)

    def count_skipped(self, loss: float) -> None:
        """After each step."""
        skipped = self.run.optimizer.last.skipped or not math.isfinite(loss)
        self.skipped = self.skipped + 1 if skipped else 0


def _evaluation(row: dict[str, Any]) -> Evaluation:
    values = {name: row[name] for name in Evaluation.__dataclass_fields__}
    return Evaluation(**{**values, "predicted": tuple(values["predicted"])})
