"""Adapters in files: `tt_adapters.safetensors` (tensors) and `tt_adapters.json` (what they are)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..call.checks import check_kind, shown
from .inject import TTAdapters, attach, device_of, existing_adapters, find_tt_adapters, output_width
from .tt_adapter import TTAdapter

__all__ = ["load_tt_adapters", "save_tt_adapters"]

FORMAT = "zokern-tt-adapters/1"
_TENSORS, _CONFIG = "tt_adapters.safetensors", "tt_adapters.json"
_OPTIONS = ("bottleneck", "rank", "activation", "scale", "bias")


def as_folder(folder: object) -> Path:
    if not isinstance(folder, (str, Path)) or not str(folder) or "\0" in str(folder):
        raise TypeError(f"folder must be a path, got {shown(folder)}")
    return Path(folder)


def save_tt_adapters(model: nn.Module, folder: str | Path) -> list[Path]:
    """Writes a model's adapters, and only them, into a folder.

    The tensors are named "<module>.down.0", "<module>.up_bias" and so on, by the modules the adapters
    stand behind; any program that reads safetensors can take them up.

    Returns:
        The files written.

    Raises:
        ValueError: the model has no adapters.
    """
    from safetensors.torch import save_file

    bank = find_tt_adapters(model)
    folder = as_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: part.cpu().clone() for name, part in bank.named_parts()}
    save_file(tensors, folder / _TENSORS)
    content = {"format": FORMAT, **bank.config}
    (folder / _CONFIG).write_text(json.dumps(content, indent=1) + "\n")
    return [folder / _TENSORS, folder / _CONFIG]


def load_tt_adapters(model: nn.Module, folder: str | Path) -> TTAdapters:
    """Puts saved adapters into a model; outputs are bit for bit those of the model that was saved.

    Args:
        model: one without adapters, which gets those of the file as `add_tt_adapters` would make them
            (it is frozen); or one whose adapters were made with the same options.
        folder: where `save_tt_adapters` wrote.

    Returns:
        The submodule with the adapters.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files are of another format, or do not fit the model; what differs is named.
            The model is then as it was.
    """
    from safetensors.torch import load_file

    check_kind("model", model, nn.Module, "a module")
    folder = as_folder(folder)
    for name in (_TENSORS, _CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"folder {folder} holds no {name}")
    config = json.loads((folder / _CONFIG).read_text())
    if not isinstance(config, dict) or config.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / _CONFIG} is not of the format {FORMAT}")
    tensors = load_file(folder / _TENSORS)
    there = existing_adapters(model)
    if there is not None:
        for key in (*_OPTIONS, "clip_ranks", "bottleneck_modes", "targets"):
            if there.config.get(key) != config.get(key):
                raise ValueError(
                    f"model has adapters with {key} = {there.config.get(key)!r}, the file has "
                    f"{config.get(key)!r}; remove_tt_adapters(model) first"
                )
    bank = there or TTAdapters(_make(model, config), config)
    _check(dict(bank.named_parts()), tensors, folder)
    for name, part in bank.named_parts():
        part.copy_(tensors[name])
    return there or attach(model, bank)


def _make(model: nn.Module, config: dict[str, Any]) -> dict[str, TTAdapter]:
    modules = dict(model.named_modules())
    adapters = {}
    for name, modes in config["targets"].items():
        if name not in modules:
            raise ValueError(
                f"model ({type(model).__name__}) has no module {name!r}, behind which the saved "
                f"adapter of a {config['model_type']} model stands"
            )
        hidden = math.prod(modes)
        try:
            width = output_width(model, name, modules[name])
        except ValueError:
            width = hidden  # it cannot be told; a forward will
        if width != hidden:
            raise ValueError(
                f"hidden: {name} gives {width} features, the saved adapter behind it has {hidden}"
            )
        adapters[name] = TTAdapter(
            hidden,
            **{option: config[option] for option in _OPTIONS},
            clip_ranks=config.get("clip_ranks", True),
            modes=(modes, config["bottleneck_modes"]),
            generator=torch.Generator(),
            device=device_of(model),
        )
    return adapters


def _check(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor], folder: Path) -> None:
    for name in sorted(wanted.keys() ^ found.keys()):
        where = "is missing from" if name in wanted else "is unknown to the model but in"
        raise ValueError(f"{name} {where} {folder / _TENSORS}")
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in the model and "
                f"{tuple(found[name].shape)} in {folder / _TENSORS}"
            )
