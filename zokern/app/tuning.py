"""Which parameters a run trains.

    full          every parameter
    lora          low-rank adapters on chosen linear layers, through peft; the rest frozen
    last-layers   the last N blocks and the head
    prefix        keys and values put before those of the text in every layer, through peft
    tt            tensor-train adapters after attention and feed-forward blocks; the rest frozen
    head          the module that makes the logits
    modules       parameters whose names match glob patterns

`TUNINGS` maps a name to a function that freezes and thaws; a new way of tuning is one entry.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zokern.app.models import Classifier, PromptedClassifier
from zokern.app.tasks import UserError

__all__ = ["TUNINGS", "Tuned", "TuningOptions", "apply_tuning"]


@dataclass(frozen=True)
class TuningOptions:
    """What the tunings may read.

    Args:
        modules: glob patterns over parameter names, as "*.layers.29.*".
        last_layers: how many blocks "last-layers" trains.
        lora_rank: r.
        lora_alpha: adapters are scaled by alpha / r.
        lora_targets: names of the linear layers that get adapters; empty: query and value
            projections, as peft knows them for the family.
        bottleneck: features inside a TT adapter.
        rank: TT-rank of its projections.
        prefix_tokens: how many tokens' keys and values "prefix" trains.
        seed: of the adapters' initialisation.
    """

    modules: Sequence[str] = ()
    last_layers: int = 2
    lora_rank: int = 4
    lora_alpha: float = 8.0
    lora_targets: Sequence[str] = ()
    bottleneck: int = 64
    rank: int = 5
    prefix_tokens: int = 5
    seed: int = 0


@dataclass
class Tuned:
    """What a tuning says of its result.

    Args:
        description: one phrase for the run's header.
        save: writes the trained weights into a folder and returns the files.
    """

    description: str
    save: Callable[[Path], list[Path]]


Tuning = Callable[[Classifier, TuningOptions], Tuned]


def _full(model: Classifier, options: TuningOptions) -> Tuned:
    _thaw(model, [model])
    return Tuned("all parameters", model.save)


def _head(model: Classifier, options: TuningOptions) -> Tuned:
    _thaw(model, model.head_modules())
    return Tuned("the head", model.save)


def _last_layers(model: Classifier, options: TuningOptions) -> Tuned:
    layers = model.layers()
    if not 1 <= options.last_layers <= len(layers):
        raise UserError(
            f"--last-layers must be between 1 and {len(layers)} for this model, got {options.last_layers}."
        )
    chosen = layers[-options.last_layers :]
    _thaw(model, chosen)
    # A head whose weight is the input embedding would thaw the first layer as well as the last.
    embeddings = {
        id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
    }
    for module in model.head_modules():
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) not in embeddings)
    return Tuned(f"the last {options.last_layers} of {len(layers)} layers and the head", model.save)


def _modules(model: Classifier, options: TuningOptions) -> Tuned:
    if not options.modules:
        raise UserError("--tuning modules needs at least one --train-modules PATTERN.")
    model.requires_grad_(False)
    named = dict(model.named_parameters())
    for pattern in options.modules:
        hits = [name for name in named if any(fnmatch.fnmatchcase(name, p) for p in _forms(pattern))]
        if not hits:
            some = ", ".join(list(named)[:3])
            raise UserError(f"--train-modules {pattern!r} matches no parameter; names look like {some}.")
        for name in hits:
            named[name].requires_grad_(True)
    return Tuned(f"parameters matching {', '.join(options.modules)}", model.save)


def _forms(pattern: str) -> tuple[str, ...]:
    """A pattern names parameters, or modules whose parameters are meant, with any beginning."""
    return pattern, f"{pattern}.*", f"*.{pattern}", f"*.{pattern}.*"


def _lora(model: Classifier, options: TuningOptions) -> Tuned:
    if model.lm is None:
        raise UserError("--tuning lora needs a transformer; this model has no such layers.")
    try:
        import peft
    except ImportError:
        raise UserError("--tuning lora needs peft: pip install 'zokern[train]'.") from None
    targets: Any = list(options.lora_targets) or _query_value_names(model.lm)
    transposed = any(
        type(module).__name__ == "Conv1D" and name.rsplit(".", 1)[-1] in targets
        for name, module in model.lm.named_modules()
    )
    config = peft.LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=targets,
        fan_in_fan_out=transposed,
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(options.seed)
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
        try:
            # Adapters are fp32 whatever the model is: they are small, and so are their moves.
            wrapped = peft.get_peft_model(model.lm, config, autocast_adapter_dtype=True)
        except ValueError as error:
            reason = " ".join(str(error).split())
            name = "--lora-targets" if options.lora_targets else "--tuning lora"
            raise UserError(f"{name}: LoRA cannot be added to {targets}: {reason[:200]}") from None
    # The adapters were put into model.lm itself; `wrapped` is kept for saving only.
    save_head = _thaw_untied(model)

    def save(folder: Path) -> list[Path]:
        before = set(folder.iterdir()) if folder.exists() else set()
        wrapped.save_pretrained(str(folder))
        if save_head:
            save_head(folder)
        return sorted(set(folder.iterdir()) - before)

    description = f"LoRA r={options.lora_rank} on {', '.join(targets)}"
    return Tuned(description + (" and the head" if save_head else ""), save)


def _prefix(model: Classifier, options: TuningOptions) -> Tuned:
    r"""Starts from the keys and values that random words have in the model (Malladi et al. 2023,
    appendix E.5): from noise, zeroth-order tuning of a prefix does not get far."""
    if not isinstance(model, PromptedClassifier) or model.masked:
        raise UserError(
            "--tuning prefix needs a causal language model scored by label words: a prefix is the cache "
            "that such a model continues from."
        )
    try:
        import peft
    except ImportError:
        raise UserError("--tuning prefix needs peft: pip install 'zokern[train]'.") from None
    count = options.prefix_tokens
    longest = getattr(model.lm.config, "max_position_embeddings", None)
    if longest is not None and count >= longest:
        raise UserError(
            f"--prefix-tokens must be below the {longest} tokens that this model reads, got {count}."
        )
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=count)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(options.seed)
    plain = sorted(set(range(len(model.tokenizer))) - set(model.tokenizer.all_special_ids))
    words = [[plain[i] for i in torch.randint(len(plain), (count,), generator=generator)]]
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
            cache = model.lm(input_ids=torch.tensor(words, device=device), use_cache=True).past_key_values
            wrapped = peft.get_peft_model(model.lm, config)
            peft.initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=cache)
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--prefix-tokens {count}: A prefix cannot be added to this model: {reason[:200]}"
        ) from None
    model.put_prefix(wrapped, count)

    def save(folder: Path) -> list[Path]:
        before = set(folder.iterdir()) if folder.exists() else set()
        wrapped.save_pretrained(str(folder))
        return sorted(set(folder.iterdir()) - before)

    return Tuned(f"keys and values of a prefix of {count} tokens", save)


def _tt(model: Classifier, options: TuningOptions) -> Tuned:
    if model.lm is None:
        raise UserError("--tuning tt needs a transformer; this model has no such layers.")
    from zokern.nn import add_tt_adapters, save_tt_adapters

    lm = model.lm
    generator = torch.Generator().manual_seed(options.seed)
    try:
        adapters = add_tt_adapters(lm, options.bottleneck, options.rank, generator=generator)
    except ValueError as error:
        raise UserError(f"TT adapters cannot be added to this model: {error}.") from None
    model.requires_grad_(False)
    adapters.requires_grad_(True)
    save_head = _thaw_untied(model)

    def save(folder: Path) -> list[Path]:
        return sorted([*save_tt_adapters(lm, folder), *(save_head(folder) if save_head else [])])

    count, rank = len(adapters.names), options.rank
    description = f"{count} TT adapters, bottleneck {options.bottleneck}, rank {rank}"
    return Tuned(description + (" and the head" if save_head else ""), save)


def _query_value_names(lm: nn.Module) -> list[str]:
    """The family's query and value projections, by the names the modules have."""
    names = {name.rsplit(".", 1)[-1] for name, _ in lm.named_modules()}
    for query_value in (
        ["q_proj", "v_proj"],
        ["query", "value"],
        ["q_lin", "v_lin"],
        ["c_attn"],
        ["query_key_value"],
        ["qkv_proj"],
        ["Wqkv"],
        ["q", "v"],
    ):
        if names.issuperset(query_value):
            return query_value
    raise UserError("No query and value projections found in this model; name --lora-targets.")


def _untied(modules: Sequence[nn.Module], model: Classifier) -> list[nn.Module]:
    """Classification heads, which start untrained; not a language model's output embedding."""
    embedding = getattr(model.lm, "get_output_embeddings", lambda: None)()
    return [module for module in modules if module is not embedding]


def _thaw_untied(model: Classifier) -> Callable[[Path], list[Path]] | None:
    """Trains a classification head beside adapters; how to save it, or None where there is none."""
    heads = _untied(model.head_modules(), model)
    for module in heads:
        module.requires_grad_(True)
    state = {f"head.{name}": p for module in heads for name, p in module.named_parameters()}
    if not state:
        return None

    def save(folder: Path) -> list[Path]:
        from zokern.app.models.base import save_state

        return [save_state(state, folder / "head.safetensors")]

    return save


def _thaw(model: Classifier, modules: Sequence[nn.Module]) -> None:
    """Trains these modules only."""
    model.requires_grad_(False)
    for module in modules:
        module.requires_grad_(True)
    _unmap(model)


def _unmap(model: Classifier) -> None:
    """Copies what is trained out of the file that `from_pretrained` maps into memory.

    Else the first write to each 4 KiB page copies it, 18 us a page: 2.4 s of SmolLM2's first step, for 0.2 s.
    """
    uses = Counter(parameter.data_ptr() for parameter in model.parameters())
    for parameter in model.parameters():
        if parameter.requires_grad and uses[parameter.data_ptr()] == 1:  # not tied by its memory alone
            parameter.data = parameter.data.clone()


TUNINGS: dict[str, Tuning] = {
    "full": _full,
    "lora": _lora,
    "prefix": _prefix,
    "tt": _tt,
    "last-layers": _last_layers,
    "head": _head,
    "modules": _modules,
}


def apply_tuning(name: str, model: Classifier, options: TuningOptions | None = None) -> Tuned:
    """Freezes and thaws `model` in place.

    Args:
        name: a key of `TUNINGS`.
        model: what to tune.
        options: see `TuningOptions`.

    Raises:
        UserError: unknown name, or nothing would be trained.
    """
    if name not in TUNINGS:
        raise UserError(f"Unknown tuning {name!r}; known: {', '.join(TUNINGS)}.")
    tuned = TUNINGS[name](model, options or TuningOptions())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"Tuning {name!r} leaves no parameter to train in this model.")
    return tuned
