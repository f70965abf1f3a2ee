"""The ops with state and masks, which differ between CPU and CUDA only in the function that is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..call.codes import DISTRIBUTION, ROUNDING, VARIANT
from ._lists import Machine, pack_with_states

Kernel = Callable[..., None]


def state_ops(masked: Kernel, adam: Kernel, adamu: Kernel, machine: Machine) -> dict[str, Kernel]:
    """A backend's entries; arguments as checked and normalised by `zokern.ops`."""

    def perturb_masked_(
        params: list[Tensor], out: list[Tensor], masks: list[Tensor], thresholds: list[float], *move: Any
    ) -> None:
        *numbers, streams, offsets, distribution, rounding = move
        lists = pack_with_states(params, out, streams, offsets, masks)
        packed = (*numbers, DISTRIBUTION[distribution], ROUNDING[rounding])
        masked(*lists, thresholds, packed, *machine(params[0].device))

    def adam_(
        params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
        max_exp_avg_sqs: list[Tensor], *move: Any,
    ) -> None:  # fmt: skip
        *numbers, rule, variant, streams, offsets, distribution, rounding = move
        lists = pack_with_states(params, out, streams, offsets, exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
        codes = VARIANT[variant], DISTRIBUTION[distribution], ROUNDING[rounding]
        adam(*lists, (*numbers, rule.as_list(), *codes), *machine(params[0].device))

    def adamu_update_(
        params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], *move: Any, update: bool = True
    ) -> None:
        *numbers, rule, streams, offsets, rounding = move
        lists = pack_with_states(params, out, streams, offsets, exp_avgs)
        packed = (*numbers, rule.as_list(), update, ROUNDING[rounding])
        adamu(*lists, packed, *machine(params[0].device))

    def adamu_probe_(
        params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float, *rest: Any
    ) -> None:
        adamu_update_(params, out, exp_avgs, seed, scale, 0.0, *rest, update=False)

    ops: tuple[Callable, ...] = (perturb_masked_, adam_, adamu_probe_, adamu_update_)
    return {op.__name__: op for op in ops}
