"""The ops with state and masks, which differ between CPU and CUDA only in the function that is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..call.rules import AdamRule, AdaMURule
from ._lists import pack_adam, pack_adamu, pack_masked, pack_with_states

Kernel = Callable[..., None]


def state_ops(
    masked: Kernel, adam: Kernel, adamu: Kernel, machine: Callable[[torch.device], tuple[Any, ...]]
) -> dict[str, Callable[..., None]]:
    """A backend's entries. `machine(device)`: the kernels' last arguments (instruction set and
    threads, or device and stream)."""

    def perturb_masked_(
        params: list[Tensor], out: list[Tensor], masks: list[Tensor], thresholds: list[float],
        seeds: list[int], scales: list[float], decay: float, streams: list[int], offsets: list[int],
        distribution: str, rounding: str,
    ) -> None:  # fmt: skip
        """Backend entry; arguments as checked and normalised by `zokern.ops.masked`."""
        lists = pack_with_states(params, out, streams, offsets, masks)
        move = pack_masked(seeds, scales, decay, distribution, rounding)
        masked(*lists, thresholds, move, *machine(params[0].device))

    def adam_(
        params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor], seeds: list[int], grads: list[float], displacements: list[float],
        decay: float, rule: AdamRule, variant: str, streams: list[int], offsets: list[int],
        distribution: str, rounding: str,
    ) -> None:  # fmt: skip
        """Backend entry; arguments as checked and normalised by `zokern.ops.adam`."""
        lists = pack_with_states(params, out, streams, offsets, exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
        move = pack_adam(seeds, grads, displacements, decay, rule, variant, distribution, rounding)
        adam(*lists, move, *machine(params[0].device))

    def adamu_probe_(
        params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
        decay: float, rule: AdaMURule, streams: list[int], offsets: list[int], rounding: str,
    ) -> None:  # fmt: skip
        """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
        lists = pack_with_states(params, out, streams, offsets, exp_avgs)
        move = pack_adamu(seed, scale, 0.0, decay, rule, False, rounding)
        adamu(*lists, move, *machine(params[0].device))

    def adamu_update_(
        params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
        displacement: float, decay: float, rule: AdaMURule, streams: list[int], offsets: list[int],
        rounding: str,
    ) -> None:  # fmt: skip
        """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
        lists = pack_with_states(params, out, streams, offsets, exp_avgs)
        move = pack_adamu(seed, scale, displacement, decay, rule, True, rounding)
        adamu(*lists, move, *machine(params[0].device))

    return {
        "perturb_masked_": perturb_masked_,
        "adam_": adam_,
        "adamu_probe_": adamu_probe_,
        "adamu_update_": adamu_update_,
    }
