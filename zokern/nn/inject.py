"""Tensor-train adapters put into a model, and taken out again."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..call.checks import as_number, as_sequence, check_flag, check_fp32, check_kind
from .factorize import check_size, plain_rank
from .packed import PackedModule, TTParameters
from .tt_adapter import TTAdapter, check_bias

__all__ = ["TTAdapters", "add_tt_adapters", "find_tt_adapters", "remove_tt_adapters"]

# Modules whose output is what the residual connection adds: of attention, then of feed-forward.
# Each makes its output anew, so the adapter may write over it.
_FAMILIES = {
    "llama": ("layers.*.self_attn", "layers.*.mlp"),
    "opt": ("layers.*.self_attn", "layers.*.fc2"),
    "gpt2": ("h.*.attn", "h.*.mlp"),
    "bert": ("layer.*.attention.output.dense", "layer.*.output.dense"),
    "distilbert": ("layer.*.attention", "layer.*.ffn"),
}
_LIKE = ("llama", "opt", "gpt2", "bert")  # tried for other types: RoBERTa has BERT's names, Mistral Llama's
_FEATURES = ("out_features", "nf")  # of a layer; nf: transformers' Conv1D
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")  # of a config
_NAME = "tt_adapters"


class AdaptOutput:
    """A forward hook that passes a module's output through an adapter.

    An object, not a function with a closure: a deep copy of the model then copies it together with
    the adapter, where a function would go on pointing at the original's.
    """

    def __init__(self, adapter: nn.Module, inplace: bool) -> None:
        self.adapter, self.inplace = adapter, inplace

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self.adapter(output, inplace=self.inplace)
        if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
            changed = [self.adapter(output[0], inplace=self.inplace), *output[1:]]
            if hasattr(output, "_fields"):
                return type(output)(*changed)
            return type(output)(changed)
        raise TypeError(
            f"targets: {type(module).__name__} returns a {type(output).__name__}; an adapter needs "
            f"a tensor, or a tuple or list that begins with one"
        )


class TTAdapters(TTParameters):
    """The adapters of a model and their parameters; `model.tt_adapters`.

    Attributes:
        flat: all their parameters, one float32 tensor.
        adapters: the adapters, in the order of `names`, the modules they stand behind.
        config: what they were made with, enough to make them again.
        trained_before: names of the model's parameters that required gradients.
    """

    def __init__(
        self,
        adapters: Mapping[str, TTAdapter],
        config: dict[str, Any],
        trained_before: Sequence[str] = (),
    ) -> None:
        modules: dict[str, PackedModule] = dict(adapters)
        super().__init__(modules)
        self.adapters = nn.ModuleList(adapters.values())
        self.config = config
        self.trained_before = list(trained_before)
        for name, adapter in adapters.items():
            adapter.move_in(self, self.layout[name][0])


def existing_adapters(model: nn.Module) -> TTAdapters | None:
    """The adapters of a model, if it has any."""
    return next((module for module in model.modules() if isinstance(module, TTAdapters)), None)


def find_tt_adapters(model: nn.Module) -> TTAdapters:
    """The adapters of a model.

    Raises:
        ValueError: it has none.
    """
    check_kind("model", model, nn.Module, "a module")
    bank = existing_adapters(model)
    if bank is None:
        raise ValueError(f"model ({type(model).__name__}) has no TT adapters; see add_tt_adapters")
    return bank


def add_tt_adapters(
    model: nn.Module,
    bottleneck: int = 64,
    rank: int = 5,
    targets: Sequence[str] | None = None,
    *,
    activation: str = "relu",
    scale: float = 1.0,
    bias: bool | str = "down",
    init: str = "identity",
    hidden: int | None = None,
    inplace: bool | None = None,
    clip_ranks: bool = True,
    generator: torch.Generator | None = None,
) -> TTAdapters:
    """Puts a `TTAdapter` behind every attention block and every feed-forward block.

    The adapter works on what the block gives to its residual connection. Everything the model had
    is frozen, norms included; the adapters' parameters are one flat float32 tensor,
    `model.tt_adapters.flat`, whatever the model's dtype. The model's output is unchanged to begin
    with (`init="identity"`).

    Args:
        model: a transformers model of the families Llama, OPT, GPT-2, RoBERTa, BERT, DistilBERT or one
            with the same module names (Mistral, Qwen, ...), or any model with `targets`.
        bottleneck, rank, activation, scale, bias, init, clip_ranks: see `TTAdapter`.
        targets: modules whose output gets an adapter, by name or pattern: "layers.*.mlp" means every
            module so named, whatever the name begins with. An output that is a tuple or list is
            changed in its first entry. Default: by family.
        hidden: width of those outputs; default from the module or the model's config.
        inplace: whether an adapter may write over the block's output where no gradients are recorded.
            Default: for the families above, where nothing else holds it.
        generator: of the CPU, for the start values; default PyTorch's own.

    Returns:
        The new submodule `model.tt_adapters`.

    Raises:
        ValueError: the model has adapters already; no module matches `targets`; `hidden` cannot be told;
            an option is out of range. The model is then as it was.

    Source: AdaZeta (Yang et al. 2024, arXiv:2406.18060), section 2.2; places of Houlsby et al. 2019.

    Example:
        >>> adapters = add_tt_adapters(model, bottleneck=64, rank=5)
        >>> optimizer = AdaZeta(model, lr=1e-4, steps_per_epoch=63)
    """
    check_kind("model", model, nn.Module, "a module")
    hidden = None if hidden is None else check_size("hidden", hidden)
    inplace = None if inplace is None else check_flag("inplace", inplace)
    check_fp32("scale", scale)
    clip_ranks = check_flag("clip_ranks", clip_ranks)
    if existing_adapters(model) is not None:
        raise ValueError("model has TT adapters already; remove_tt_adapters(model) takes them out")
    options: dict[str, Any] = {
        "bottleneck": check_size("bottleneck", bottleneck),
        "rank": plain_rank(rank),
        "activation": activation,
        "scale": as_number("scale", scale),
        "bias": check_bias(bias),
        **({} if clip_ranks else {"clip_ranks": False}),  # files of usual adapters stay what they were
    }
    adapters = {
        name: TTAdapter(
            output_width(model, name, module) if hidden is None else hidden,
            **options,
            init=init,
            generator=generator,
            device=device_of(model),
        )
        for name, module in choose_modules(model, targets).items()
    }
    config = {
        **options,
        "bottleneck_modes": next(iter(adapters.values())).bottleneck_modes,
        "inplace": targets is None if inplace is None else inplace,
        "targets": {name: adapter.hidden_modes for name, adapter in adapters.items()},
        "model_type": _model_type(model),
    }
    return attach(model, TTAdapters(adapters, config))


def attach(model: nn.Module, bank: TTAdapters) -> TTAdapters:
    """Freezes the model, registers the adapters on it and hooks them to their modules."""
    if hasattr(model, _NAME):
        raise ValueError(f"model has an attribute named {_NAME!r} already")
    bank.trained_before = [name for name, p in model.named_parameters() if p.requires_grad]
    model.requires_grad_(False)
    model.add_module(_NAME, bank)
    for name, adapter in zip(bank.names, bank.adapters):
        hook = AdaptOutput(adapter, bank.config["inplace"])
        model.get_submodule(name).register_forward_hook(hook)
    return bank


def remove_tt_adapters(model: nn.Module) -> None:
    """Takes the adapters out: the model is again what it was, also in what requires gradients.

    Raises:
        ValueError: it has none.
    """
    bank = find_tt_adapters(model)
    for module in model.modules():
        hooks = module._forward_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, AdaptOutput)]:
            del hooks[key]
    root = next(module for module in model.modules() if module._modules.get(_NAME) is bank)
    del root._modules[_NAME]
    for name, parameter in root.named_parameters():
        parameter.requires_grad_(name in bank.trained_before)


def _matching(model: nn.Module, pattern: str) -> list[str]:
    return [
        name
        for name, _ in model.named_modules()
        if name and (fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}"))
    ]


def _model_type(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)


def device_of(model: nn.Module) -> torch.device | None:
    """Where adapters of the model go: to its first parameter."""
    return next((p.device for p in model.parameters()), None)


def choose_modules(model: nn.Module, targets: Sequence[str] | None) -> dict[str, nn.Module]:
    """The modules to adapt by name, in the model's order."""
    if targets is None:
        kind = _model_type(model)
        families = [_FAMILIES[name] for name in ((kind,) if kind in _FAMILIES else _LIKE)]
        fitting = [f for f in families if all(_matching(model, pattern) for pattern in f)]
        if not fitting:
            what = f"model type {kind!r}" if kind else type(model).__name__
            raise ValueError(
                f"targets: {what} has no attention and feed-forward blocks by known names; say which "
                f"modules get an adapter, as targets=('layers.*.attention', 'layers.*.mlp')"
            )
        targets = fitting[0]
    elif isinstance(targets, str):
        targets = (targets,)
    targets = as_sequence("targets", targets, "a name or a list of names")
    if not targets:
        raise ValueError("targets must name a module at least, got []")
    found: set[str] = set()
    for i, pattern in enumerate(targets):
        check_kind(f"targets[{i}]", pattern, str, "a name")
        names = _matching(model, pattern)
        if not names:
            some = [name for name, _ in model.named_modules() if name]
            shown = ", ".join(some[:: max(1, len(some) // 4)][:4])
            raise ValueError(f"targets: no module matches {pattern!r}; names look like {shown}")
        found.update(names)
    return {name: module for name, module in model.named_modules() if name in found}


def output_width(model: nn.Module, name: str, module: nn.Module) -> int:
    """Features of a module's output; of a `nn.Sequential`, those of its last layer that says them."""
    layers = [*reversed(list(module.children())), module] if isinstance(module, nn.Sequential) else [module]
    configs = [getattr(holder, "config", None) for holder in (module, model)]
    places = [(layer, _FEATURES) for layer in layers] + [(config, _WIDTHS) for config in configs]
    for place, attributes in places:
        for attribute in attributes:
            value = getattr(place, attribute, None)
            if isinstance(value, int):
                return value
    raise ValueError(
        f"hidden: the width of the output of {name} ({type(module).__name__}) cannot be told from it "
        f"or a config; pass hidden="
    )
