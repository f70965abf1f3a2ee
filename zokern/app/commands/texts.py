"""What the help of `zokern train` says of tasks, tunings and methods, made from their tables."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from zokern.app.defaults import MODEL_TUNINGS
from zokern.app.methods import METHODS, Method, readers
from zokern.app.options import TrainOptions
from zokern.app.tasks import HUB_TASKS, TASKS
from zokern.app.tasks.files import KINDS
from zokern.app.tuning import TUNINGS

__all__ = ["examples", "train_texts"]


def train_texts(option: str) -> dict[str, str]:
    """What stands for each `$name` in the help of an option of `TrainOptions`."""
    return {
        "tasks": ", ".join(TASKS),
        "hub_tasks": ", ".join(HUB_TASKS),
        "formats": " ".join(KINDS),
        "tunings": ", ".join(TUNINGS),
        "default_tunings": _default_tunings(),
        "methods": _methods(),
        "coupled": _short(_those(lambda method: method.coupled_decay)),
        "decaying": _decaying(),
        "scheduled": _short(_those(lambda method: method.scheduled)),
        "readers": _readers(option),
        "shown": "; ".join(dict.fromkeys(m.shown[option] for m in METHODS.values() if option in m.shown)),
    }


def examples() -> str:
    """A line for each method that has an example."""
    lines = []
    for name, method in METHODS.items():
        if method.example is not None:
            options, remark = method.example
            command = " ".join(filter(None, ("zokern train --method", name, options)))
            lines.append(f"[cyan]{command}[/cyan]  ({remark})")
    return "\n".join(lines)


def _those(chosen: Callable[[Method], bool]) -> list[str]:
    return [name for name, method in METHODS.items() if chosen(method)]


def _short(names: Sequence[str]) -> str:
    """ "zo-adam, -adamw, fo-sgd": a beginning shared with the name before is left out."""
    texts = []
    before = ""
    for name in names:
        family, dash, rest = name.partition("-")
        texts.append(dash + rest if dash and family == before else name)
        before = family
    return ", ".join(texts)


def _methods() -> str:
    summaries = "; ".join(f"[bold]{name}[/bold]: {method.summary}" for name, method in METHODS.items())
    kept = ", ".join(_those(lambda method: method.replay is None))
    return (
        f"{summaries}. {kept} resume from their last checkpoint and repeat the steps since, the others from the "
        "log of losses."
    )


def _default_tunings() -> str:
    usual, _ = Counter(method.tuning for method in METHODS.values()).most_common(1)[0]
    own = {name: method.tuning for name, method in METHODS.items() if method.tuning != usual}
    return "; ".join([usual, *(f"{name}: {tuning}" for name, tuning in {**own, **MODEL_TUNINGS}.items())])


def _decaying() -> str:
    rates: dict[float, list[str]] = {}
    for name, method in METHODS.items():
        if method.weight_decay:
            rates.setdefault(method.weight_decay, []).append(name)
    return "; ".join(f"{_short(names)}: {rate:g}" for rate, names in rates.items())


def _readers(option: str) -> str:
    """The methods that read an option, or "The same" where they read the one before too."""
    found = readers(option)
    names = [field.name for field in dataclasses.fields(TrainOptions)]
    before = names[names.index(option) - 1]
    return "The same" if found and readers(before) == found else _short(found)
