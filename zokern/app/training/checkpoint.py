"""Checkpoints: the trainable tensors and the optimizer's state after some step, replaced atomically.

A checkpoint is never in the way of exactness: the same steps write one whether or not a run was
interrupted, and writing one lands what the optimizer had pending, in both cases alike.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zokern.app.tasks import UserError, explain_os_error

__all__ = [
    "CHECKPOINT",
    "Checkpoint",
    "fingerprint",
    "read_checkpoint",
    "save_checkpoint",
    "write_atomically",
]

CHECKPOINT = "checkpoint.pt"
_MARK = b"zokern sha256 "
_SEAL = len(_MARK) + 64 + 1
"""Bytes behind what `torch.save` wrote: the mark, the SHA-256 of all before it in hexadecimal, a line's end. `torch.load`
reads the file as it is."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file whole: readers see the old content or the new, after a crash too."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain_os_error(error, f"writing {path}") from None


class _Hashing:
    """A file to write to, and the SHA-256 of what is written."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self.file.write(content)  # type: ignore[no-any-return]

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: Any, log: str | None = None
) -> Path:
    """Writes the state after `step` steps; the previous checkpoint stays until this one is whole.

    The optimizer must have nothing pending (`flush`).

    Args:
        log: the check of the step's line in the log, which ties the checkpoint to it.
    """
    path, temporary = folder / CHECKPOINT, folder / f".{CHECKPOINT}.partial"
    content = {
        "step": step,
        "log": log,
        "parameters": {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        },
        "optimizer": optimizer.state_dict(),
    }
    try:
        with open(temporary, "wb") as file:
            hashing = _Hashing(file)
            torch.save(content, hashing)  # type: ignore[arg-type]
            file.write(_MARK + hashing.digest.hexdigest().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain_os_error(error, f"writing {path}") from None
        raise UserError(f"Failed writing {path}: {error}") from None
    return path


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, read and checked."""

    path: Path
    step: int
    parameters: Mapping[str, torch.Tensor]
    optimizer: Any

    def restore(self, model: nn.Module, optimizer: Any) -> None:
        """Puts it into model and optimizer.

        Raises:
            UserError: it belongs to another model.
        """
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if trainable.keys() != self.parameters.keys():
            differing = sorted(trainable.keys() ^ self.parameters.keys())[0]
            raise UserError(f"{self.path} does not fit this model: it differs in {differing}.")
        for name, parameter in trainable.items():
            saved = self.parameters[name]
            if parameter.shape != saved.shape or parameter.dtype != saved.dtype:
                raise UserError(f"{self.path} does not fit this model: {name} has another shape or type.")
        with torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(self.parameters[name])
        try:
            optimizer.load_state_dict(self.optimizer)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise UserError(f"{self.path} does not fit this optimizer: {error}") from None


def read_checkpoint(
    folder: Path, log: Mapping[int, str] | None = None, say: Callable[[str], None] = lambda text: None
) -> Checkpoint | None:
    """The last checkpoint; None where there is none, or where it cannot be used, which is said: the log alone
    rebuilds a run from its start.

    Args:
        folder: of the run.
        log: step -> check of its line in the log, one of which the checkpoint must carry; None: checkpoints of an
            earlier release, which have no checksum.
        say: called with a sentence on a checkpoint that is not used.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    reason = "" if log is None else _damage(path)
    if not reason:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            found = Checkpoint(path, content["step"], content["parameters"], content["optimizer"])
            if not isinstance(found.step, int) or not isinstance(found.parameters, dict):
                raise ValueError("its entries are of other types")
        except Exception as error:  # a damaged file makes the reader raise anything
            reason = f"cannot be read ({' '.join(str(error).split())[:80]})"
        else:
            if log is None or (found.step in log and log[found.step] == content["log"]):
                return found
            reason = f"is of step {found.step} of another log, or of one that was longer than this"
    say(f"{path} {reason}. It is not used.")
    return None


def _damage(path: Path) -> str:
    """What is wrong with a file that should end with its checksum."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size - _SEAL
            while left > 0 and (part := file.read(min(left, 1 << 20))):
                digest.update(part)
                left -= len(part)
            seal = file.read()
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from None
    whole = left == 0 and seal == _MARK + digest.hexdigest().encode() + b"\n"
    return "" if whole else "is damaged: its checksum is not that of its content"


def fingerprint(model: nn.Module) -> str:
    """A short hash of a model's names, shapes and some of its bytes, before training.

    Reads the ends of every parameter, so it tells apart different weights of one architecture, in
    milliseconds; it is no checksum.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        ends = torch.cat([flat[:64], flat[-64:]]).float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(ends.numpy().tobytes())
    return digest.hexdigest()[:16]
