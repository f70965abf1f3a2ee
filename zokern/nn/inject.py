"""Tensor-train adapters put into a model, and taken out again."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .packed import PackedModule, TTParameters
from .tt_adapter import TTAdapter

__all__ = ["TTAdapters", "add_tt_adapters", "find_tt_adapters", "remove_tt_adapters"]

# Modules whose output is what the residual connection adds: of attention, then of feed-forward.
# Each makes its output anew, so the adapter may write over it.
_LLAMA = ("layers.*.self_attn", "layers.*.mlp")
_OPT = ("layers.*.self_attn", "layers.*.fc2")
_GPT2 = ("h.*.attn", "h.*.mlp")
_BERT = ("layer.*.attention.output.dense", "layer.*.output.dense")
_DISTILBERT = ("layer.*.attention", "layer.*.ffn")
_FAMILIES: dict[str, tuple[str, ...]] = {
    "llama": _LLAMA,
    "opt": _OPT,
    "gpt2": _GPT2,
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "distilbert": _DISTILBERT,
}
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_NAME = "tt_adapters"


class AdaptOutput:
    """A forward hook that passes a module's output through an adapter.

    An object, not a function with a closure: a deep copy of the model then copies it together with
    the adapter, where a function would go on pointing at the original's.
    """

    def __init__(self, adapter: TTAdapter, inplace: bool) -> None:
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


def find_tt_adapters(model: nn.Module) -> TTAdapters:
    """The adapters of a model.

    Raises:
        ValueError: it has none.
    """
    for module in model.modules():
        if isinstance(module, TTAdapters):
            return module
    raise ValueError(f"model ({type(model).__name__}) has no TT adapters; see add_tt_adapters")


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
        bottleneck, rank, activation, scale, bias, init: see `TTAdapter`.
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
    if any(isinstance(module, TTAdapters) for module in model.modules()):
        raise ValueError("model has TT adapters already; remove_tt_adapters(model) takes them out")
    if hasattr(model, _NAME):
        raise ValueError(f"model has an attribute named {_NAME!r} already")
    chosen = _choose(model, targets)
    in_place = targets is None if inplace is None else inplace
    device = next((p.device for p in model.parameters()), None)
    adapters = {
        name: TTAdapter(
            _width(model, name, module) if hidden is None else hidden,
            bottleneck,
            rank,
            activation=activation,
            scale=scale,
            bias=bias,
            init=init,
            generator=generator,
            device=device,
        )
        for name, module in chosen.items()
    }
    some = next(iter(adapters.values()))
    config = {
        "bottleneck": bottleneck,
        "bottleneck_modes": some.bottleneck_modes,
        "rank": rank,
        "activation": activation,
        "scale": scale,
        "bias": bias,
        "inplace": in_place,
        "targets": {name: a.hidden_modes for name, a in adapters.items()},
        "model_type": getattr(getattr(model, "config", None), "model_type", None),
    }
    return attach(model, adapters, config)


def attach(model: nn.Module, adapters: Mapping[str, TTAdapter], config: dict[str, Any]) -> TTAdapters:
    """Freezes the model, registers the adapters on it and hooks them to their modules."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    bank = TTAdapters(adapters, config, trained)
    model.requires_grad_(False)
    model.add_module(_NAME, bank)
    for name, adapter in adapters.items():
        hook = AdaptOutput(adapter, config["inplace"])
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
    for module in model.modules():
        if module._modules.get(_NAME) is bank:
            del module._modules[_NAME]
            root = module
            break
    for name, parameter in root.named_parameters():
        parameter.requires_grad_(name in bank.trained_before)


def _matching(model: nn.Module, pattern: str) -> list[str]:
    return [
        name
        for name, _ in model.named_modules()
        if name and (fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*.{pattern}"))
    ]


def _choose(model: nn.Module, targets: Sequence[str] | None) -> dict[str, nn.Module]:
    """The modules to adapt by name, in the model's order."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if targets is None:
        families = [_FAMILIES[kind]] if kind in _FAMILIES else [_LLAMA, _OPT, _GPT2, _BERT]
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
    found: set[str] = set()
    for pattern in targets:
        names = _matching(model, pattern)
        if not names:
            some = [name for name, _ in model.named_modules() if name]
            shown = ", ".join(some[:: max(1, len(some) // 4)][:4])
            raise ValueError(f"targets: no module matches {pattern!r}; names look like {shown}")
        found.update(names)
    return {name: module for name, module in model.named_modules() if name in found}


def _width(model: nn.Module, name: str, module: nn.Module) -> int:
    """Features of a module's output."""
    for inner in reversed([module, *module.children()] if _is_chain(module) else [module]):
        for attribute in ("out_features", "nf"):  # nf: transformers' Conv1D
            value = getattr(inner, attribute, None)
            if isinstance(value, int):
                return value
    for holder in (module, model):
        config = getattr(holder, "config", None)
        for attribute in _WIDTHS:
            value = getattr(config, attribute, None)
            if isinstance(value, int):
                return value
    raise ValueError(
        f"hidden: the width of the output of {name} ({type(module).__name__}) cannot be told from it "
        f"or a config; pass hidden="
    )


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential)
