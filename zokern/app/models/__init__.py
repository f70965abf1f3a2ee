"""Models of `zokern train`: packaged ones, any transformers model by name or folder, and an MLP."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from zokern.app.models.base import Classifier, Inputs, MLPClassifier
from zokern.app.models.heads import HeadClassifier, PooledClassifier
from zokern.app.models.packaged import PACKAGED_MODELS, Notify
from zokern.app.models.prompted import PromptedClassifier
from zokern.app.tasks import ArrayTask, Task, TextTask, UserError
from zokern.app.tasks.fetch import Progress

__all__ = [
    "PACKAGED_MODELS",
    "Classifier",
    "HeadClassifier",
    "Inputs",
    "MLPClassifier",
    "PooledClassifier",
    "PromptedClassifier",
    "load_classifier",
]


def __getattr__(name: str) -> Any:
    if name == "Batch":
        warnings.warn("zokern.models.Batch is now zokern.app.models.Inputs", DeprecationWarning, stacklevel=2)
        return Inputs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


SCORINGS = ("auto", "label-words", "head")

_NETWORK = ("couldn't connect", "offline mode", "connection error", "max retries", "timed out")


def load_classifier(
    name: str | None,
    task: Task,
    *,
    scoring: str = "auto",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    chat: bool | None = None,
    max_words: int | None = None,
    max_length: int = 512,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Classifier:
    """Loads a model and fits it with the task's classes.

    Args:
        name: "smollm2", "minilm", "mlp", a hub name or a local folder; None: the task's own.
        task: what it is to classify.
        scoring: "label-words" (prompted; causal or masked language model), "head" (prompt-free
            classification head), or "auto": label words where the model has a language-model head.
        dtype: of the parameters.
        device: where it runs.
        seed: of whatever is initialised at random; the global generators are left as they were.
        chat: wrap prompts in the chat template; None: where there is one.
        max_words, max_length: limits of each text, in words, and of the whole prompt, in tokens.
        progress, notify: called during downloads and before slow steps.

    Returns:
        The model in evaluation mode (no dropout: both evaluations of a pair must see one function).

    Raises:
        UserError: unknown model, no network, a task the model cannot do.
    """
    name = name or task.default_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(task, ArrayTask):
            if name != "mlp":
                raise UserError(f"Task {task.name} has no text; its model is mlp, not {name}.")
            model: Classifier = MLPClassifier(task.train_x.shape[1], 32, len(task.labels))
        elif isinstance(task, TextTask):
            if name == "mlp":
                raise UserError(f"Model mlp cannot read text; task {task.name} needs a transformer.")
            _quiet_transformers(name)
            source = name
            if name in PACKAGED_MODELS:
                source = str(PACKAGED_MODELS[name](progress, notify))
            elif notify is not None and not Path(name).expanduser().exists():
                notify(f"Looking for model {name} on the hub")
            model = _load_transformer(
                name,
                source,
                task,
                scoring,
                dtype,
                {"max_words": max_words, "max_length": max_length},
                chat,
            )
        else:
            raise UserError(f"Task {task.name} has no model.")
    return model.to(device=device, dtype=dtype).eval()


def _quiet_transformers(name: str) -> None:
    """Imports transformers and turns off its own progress bars and advice."""
    try:
        import transformers
        from huggingface_hub.utils import logging as hub_logging
    except ImportError as error:
        raise UserError(
            f"Model {name} needs the package {error.name}: pip install 'zokern[train]'."
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    hub_logging.set_verbosity_error()


def _load_transformer(
    name: str,
    source: str,
    task: TextTask,
    scoring: str,
    dtype: torch.dtype,
    limits: dict[str, Any],
    chat: bool | None,
) -> Classifier:
    import transformers

    config = _pretrained(transformers.AutoConfig, name, source)
    kind = _kind(config)
    if scoring == "auto":
        scoring = "label-words" if kind != "encoder" and task.label_words else "head"
    if scoring == "label-words" and kind == "encoder":
        raise UserError(
            f"Model {name} has no language-model head, so label words cannot be scored; use --scoring head."
        )
    if scoring == "label-words" and not task.label_words:
        raise UserError(
            f"Task {task.name} has no label words; give one per class ({', '.join(task.labels)}) "
            "with --label-words, or use --scoring head."
        )
    tokenizer = _pretrained(transformers.AutoTokenizer, name, source)
    limits["max_length"] = min(limits["max_length"], _longest(config))
    if scoring == "label-words":
        auto = transformers.AutoModelForMaskedLM if kind == "masked" else transformers.AutoModelForCausalLM
        lm = _pretrained(auto, name, source, dtype=dtype)
        return PromptedClassifier(lm, tokenizer, task, masked=kind == "masked", chat=chat, **limits)
    if _is_sentence_encoder(source):
        lm = _pretrained(transformers.AutoModel, name, source, dtype=dtype)
        return PooledClassifier(lm, tokenizer, len(task.labels), **limits)
    lm = _pretrained(
        transformers.AutoModelForSequenceClassification,
        name,
        source,
        dtype=dtype,
        num_labels=len(task.labels),
        ignore_mismatched_sizes=True,
    )
    return HeadClassifier(lm, tokenizer, **limits)


def _kind(config: Any) -> str:
    """What the checkpoint was saved as: "causal", "masked" or "encoder"."""
    from transformers.models.auto import modeling_auto as auto

    architectures = set(config.architectures or ())
    if architectures & set(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()):
        return "masked"
    if architectures & set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        return "causal"
    return "encoder"


def _longest(config: Any) -> int:
    longest = getattr(config, "max_position_embeddings", None) or 1 << 20
    # RoBERTa numbers its positions from padding_idx + 1.
    return longest - 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else longest


def _is_sentence_encoder(source: str) -> bool:
    try:
        modules = json.loads((Path(source) / "modules.json").read_text())
        return any(str(module["type"]).endswith("Pooling") for module in modules)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _pretrained(auto: Any, name: str, source: str, **arguments: Any) -> Any:
    """`from_pretrained` whose failures are sentences."""
    try:
        return auto.from_pretrained(source, **arguments)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if any(sign in reason.lower() for sign in _NETWORK):
            raise UserError(
                f"Could not reach the model hub for {name!r}. Check the network, or give --model a "
                f"local folder or one of {', '.join(PACKAGED_MODELS)}."
            ) from None
        if Path(source).expanduser().is_dir():
            raise UserError(f"Could not load a model from {source}: {reason[:200]}") from None
        if "not a local folder" in reason or "not a valid model identifier" in reason:
            raise UserError(
                f"Unknown model {name!r}: neither a local folder, nor on the hub, nor one of "
                f"{', '.join(PACKAGED_MODELS)}."
            ) from None
        raise UserError(f"Could not load model {name!r}: {reason[:200]}") from None
