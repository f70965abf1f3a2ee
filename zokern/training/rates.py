"""What a run takes where the user gives nothing: learning rate and scale by method and tuning.

Rates were measured with short runs of SmolLM2-135M on movie reviews and of the MLP on digits;
other models and tasks need their own search.
"""

from __future__ import annotations

from typing import Any

__all__ = ["default_options", "default_tuning"]

# tuning -> (lr, eps) of plain zeroth-order SGD
_MEZO: dict[str, tuple[float, float]] = {
    "lora": (4e-4, 1e-2),
    "prefix": (1e-3, 1e-1),
    "tt": (1e-3, 1e-2),
    "full": (6e-6, 1e-3),
    "last-layers": (1e-5, 1e-3),
    "head": (1e-3, 1e-2),
    "modules": (1e-5, 1e-3),
}

# tuning -> lr of rules whose steps have a length of their own, whatever the gradient's
_ADAM: dict[str, float] = {
    "lora": 3e-3,
    "prefix": 1e-2,
    "tt": 1e-3,
    "full": 1e-5,
    "last-layers": 3e-5,
    "head": 1e-2,
    "modules": 3e-5,
}

_FO_ADAM: dict[str, float] = {
    "lora": 1e-3,
    "prefix": 1e-2,
    "tt": 1e-3,
    "full": 2e-5,
    "last-layers": 1e-4,
    "head": 1e-2,
    "modules": 1e-4,
}

_FO_SGD: dict[str, float] = {
    "lora": 1e-2,
    "prefix": 1e-1,
    "tt": 1e-2,
    "full": 1e-3,
    "last-layers": 1e-3,
    "head": 1e-1,
    "modules": 1e-3,
}

# MeZO-SVRG's second rate, of the steps between full ones, as a share of the first
_MINIBATCH_SHARE = 0.3

# (task, model, tuning) -> what a good short run takes, measured with MeZO on 2 cores.
_MEZO_ON: dict[tuple[str, str, str], dict[str, Any]] = {
    ("mr", "smollm2", "lora"): {"lr": 8e-4, "lr_schedule": "linear"},
    ("mr", "smollm2", "prefix"): {"lr": 2e-2, "lr_schedule": "linear"},
    ("mr", "smollm2", "full"): {"lr": 2e-5, "lr_schedule": "linear"},
    ("digits", "mlp", "full"): {
        "lr": 3e-2,
        "eps": 1e-3,
        "steps": 1500,
        "batch_size": 64,
        "num_queries": 8,
        "lr_schedule": "linear",
    },
    ("reuters", "minilm", "head"): {"steps": 200, "batch_size": 32},
}

_RATES_ON_DIGITS = {
    **dict.fromkeys(("zo-adam", "zo-adamw", "zo-adamm"), 1e-2),
    "zo-adamax": 3e-2,
    "zo-adamu": 1e-1,
    "mezo-svrg": 1e-1,
    "sparse-mezo": 3e-1,
    "fo-adamw": 3e-3,
    "fo-sgd": 3e-1,
}

_ADAPTIVE = ("zo-adam", "zo-adamw", "zo-adamax", "zo-adamm")


def default_tuning(method: str, model: str) -> str:
    """The tuning of a method and model."""
    usual = {"adazeta": "tt", "sparse-mezo": "full"}.get(method, "lora")
    return {"mlp": "full", "minilm": "head"}.get(model, usual)


def default_options(task: str, model: str, method: str, tuning: str) -> dict[str, Any]:
    """Options by name, for those that are None; one that the method does not read stays out.

    Args:
        task, model, method, tuning: names, as given on the command line.
    """
    lr, eps = _MEZO.get(tuning, (1e-6, 1e-3))
    options: dict[str, Any] = {
        "lr": lr,
        "eps": eps,
        "steps": 160,
        "batch_size": 8,
        "num_queries": 1,
        "lr_schedule": "constant",
        "weight_decay": 0.01 if method in ("zo-adamw", "fo-adamw") else 0.0,
        **_MEZO_ON.get((task, model, tuning), {}),
    }
    if method in _ADAPTIVE:
        options["lr"] = _ADAM.get(tuning, lr)
    elif method == "fo-adamw":
        options["lr"] = _FO_ADAM.get(tuning, lr)
    elif method == "fo-sgd":
        options["lr"] = _FO_SGD.get(tuning, lr)
    if task == "digits":
        options["lr"] = _RATES_ON_DIGITS.get(method, options["lr"])
    if method == "mezo-svrg":
        options["lr_minibatch"] = _MINIBATCH_SHARE
    if method == "sparse-mezo" and tuning != "full":
        options["mask_refresh"] = 1  # adapters start at zero, where one threshold would freeze all
    if method.startswith("fo-"):
        del options["eps"], options["num_queries"]
    elif method == "zo-svrg":
        del options["num_queries"]
    return options
