"""How many parameters each way of tuning a model trains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from zokern.nn import TTAdapter
from zokern.nn.inject import choose_modules, existing_adapters, output_width

__all__ = ["ParameterReport", "parameter_report"]

_QUERY_VALUE = (("q_proj", "v_proj"), ("query", "value"), ("q_lin", "v_lin"), ("c_attn",))


@dataclass(frozen=True)
class ParameterReport:
    """Trained parameters by way of tuning; `print` shows the table.

    Attributes:
        full: every parameter of the model, tied ones once.
        lora: A and B of rank `lora_rank` on the query and value projections; None if not found.
        bottleneck: dense adapters of the same places and bottleneck, with both biases.
        bottleneck_weights: of these, the two matrices alone.
        tt: what the TT adapters train: cores and the biases they have.
        tt_cores: of these, the cores alone.
        adapters: how many adapters.
        lora_rank: as asked.
    """

    full: int
    lora: int | None
    bottleneck: int
    bottleneck_weights: int
    tt: int
    tt_cores: int
    adapters: int
    lora_rank: int

    @property
    def reduction(self) -> float:
        """Dense adapters over TT adapters, both as trained, biases included."""
        return self.bottleneck / self.tt

    @property
    def reduction_of_matrices(self) -> float:
        """Dense matrices over the cores that stand for them, no bias on either side."""
        return self.bottleneck_weights / self.tt_cores

    def __str__(self) -> str:
        rows = [
            ("full tuning", self.full),
            (f"LoRA r={self.lora_rank} on query and value", self.lora),
            (f"{self.adapters} dense bottleneck adapters", self.bottleneck),
            (f"{self.adapters} TT adapters", self.tt),
            ("  of these, cores", self.tt_cores),
        ]
        lines = [f"{'':36}{'parameters':>14}{'of full':>11}"]
        for label, count in rows:
            if count is not None:
                lines.append(f"{label:36}{count:14,}{count / self.full:11.4%}")
        lines.append(
            f"TT adapters train {self.reduction:.0f}x fewer than dense ones (biases counted on both "
            f"sides), {self.reduction_of_matrices:.0f}x fewer in the matrices alone"
        )
        return "\n".join(lines)


def parameter_report(
    model: nn.Module,
    bottleneck: int = 64,
    rank: int = 5,
    *,
    bias: bool | str = "down",
    lora_rank: int = 8,
    hidden: int | None = None,
) -> ParameterReport:
    """Counts what TT adapters, dense adapters, LoRA and full tuning train.

    Args:
        model: with TT adapters, which are then counted as they are; or without, and those that
            `add_tt_adapters` would add are counted (nothing is changed).
        bottleneck, rank, bias, hidden: of the adapters to be counted, if the model has none.
        lora_rank: of the LoRA row.

    Raises:
        ValueError: as `add_tt_adapters`.

    Example:
        >>> print(parameter_report(model))
    """
    bank = existing_adapters(model)
    if bank is not None:
        adapters = [adapter for adapter in bank.adapters if isinstance(adapter, TTAdapter)]
    else:
        widths = [
            output_width(model, name, module) if hidden is None else hidden
            for name, module in choose_modules(model, None).items()
        ]
        made = {width: TTAdapter(width, bottleneck, rank, bias=bias, device="meta") for width in set(widths)}
        adapters = [made[width] for width in widths]
    own = set() if bank is None else {id(p) for p in bank.parameters()}
    weights = sum(2 * a.hidden * a.bottleneck for a in adapters)
    return ParameterReport(
        full=sum(p.numel() for p in model.parameters() if id(p) not in own),
        lora=_lora(model, lora_rank),
        bottleneck=weights + sum(a.hidden + a.bottleneck for a in adapters),
        bottleneck_weights=weights,
        tt=sum(sum(a.sizes) for a in adapters),
        tt_cores=sum(core for a in adapters for core in _cores(a)),
        adapters=len(adapters),
        lora_rank=lora_rank,
    )


def _cores(adapter: TTAdapter) -> list[int]:
    """Sizes of the cores, without the biases."""
    return [n for name, n in zip(adapter.shapes, adapter.sizes) if not name.endswith("bias")]


def _lora(model: nn.Module, rank: int) -> int | None:
    """A and B on the query and value projections, by the names the families give them."""
    last = {name: name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    for names in _QUERY_VALUE:
        chosen = [m for name, m in model.named_modules() if last[name] in names]
        shapes = [m.weight.shape for m in chosen if getattr(m, "weight", None) is not None]
        if shapes:
            return sum(rank * sum(shape) for shape in shapes)
    return None
