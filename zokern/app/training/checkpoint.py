"""Checkpoints: the trainable tensors and the optimizer's state after some step, replaced atomically.

A checkpoint is never in the way of exactness: the same steps write one whether or not a run was
interrupted, and writing one lands what the optimizer had pending, in both cases alike.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zokern.app.tasks import UserError, explain_os_error

__all__ = ["fingerprint", "load_checkpoint", "save_checkpoint", "write_atomically"]

_NAME = "checkpoint.pt"


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


def save_checkpoint(folder: Path, step: int, model: nn.Module, optimizer: Any) -> Path:
    """Writes the state after `step` steps; the previous checkpoint stays until this one is whole.

    The optimizer must have nothing pending (`flush`).
    """
    path, temporary = folder / _NAME, folder / f".{_NAME}.partial"
    content = {
        "step": step,
        "parameters": {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        },
        "optimizer": optimizer.state_dict(),
    }
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain_os_error(error, f"writing {path}") from None
        raise UserError(f"Failed writing {path}: {error}") from None
    return path


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Any) -> int:
    """Puts the last checkpoint into model and optimizer.

    Returns:
        The number of steps it is after; 0 where there is none or it cannot be read, in which case
        nothing was changed: the log alone rebuilds a run from its start.

    Raises:
        UserError: it belongs to another model.
    """
    path = folder / _NAME
    if not path.exists():
        return 0
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        parameters, state, step = content["parameters"], content["optimizer"], int(content["step"])
    except (OSError, RuntimeError, KeyError, EOFError, zipfile.BadZipFile, pickle.PickleError):
        return 0
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if trainable.keys() != parameters.keys():
        differing = sorted(trainable.keys() ^ parameters.keys())[0]
        raise UserError(f"{path} does not fit this model: it differs in {differing}.")
    with torch.no_grad():
        for name, parameter in trainable.items():
            if parameter.shape != parameters[name].shape or parameter.dtype != parameters[name].dtype:
                raise UserError(f"{path} does not fit this model: {name} has another shape or type.")
            parameter.copy_(parameters[name])
    optimizer.load_state_dict(state)
    return step


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
