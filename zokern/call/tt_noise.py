"""The noise that perturbs a tensor-train layer inside a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .checks import as_sequence, check_choice, check_fp32, check_seed, check_seeds
from .codes import DISTRIBUTIONS

FIXED = -1  # offset of a core or bias that the noise leaves alone


@dataclass(frozen=True)
class TTNoise:
    """Perturbed copies of a layer's cores and biases, generated inside the call.

    Query p computes with ``fma(scales[p], z(seeds[p], stream, offset + i), value)`` in place of each
    stored value, bit for bit what `zokern.perturb_` would have written; nothing is written.

    Args:
        seeds: one 64-bit seed a query.
        scales: one factor a query (+eps, -eps, ...), rounded to fp32.
        offsets: where each core, then the bias if there is one, begins in the stream; an adapter's
            are those of `down` followed by those of `up`. None leaves that tensor unperturbed.
        stream: ordinal of the buffer that the cores are views of.
        distribution: "gaussian" or "rademacher".

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range; it is named.

    Example:
        >>> noise = zokern.TTNoise(seeds=[7, 7], scales=[1e-3, -1e-3], offsets=[0, 80, 480, 880])
    """

    seeds: Sequence[int]
    scales: Sequence[float]
    offsets: Sequence[int | None]
    stream: int = 0
    distribution: str = "gaussian"

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("seeds", tuple(check_seeds("noise.seeds", as_sequence("noise.seeds", self.seeds))))
        scales = as_sequence("noise.scales", self.scales)
        keep("scales", tuple(check_fp32(f"noise.scales[{k}]", s) for k, s in enumerate(scales)))
        if not self.seeds:
            raise ValueError("noise.seeds must name at least one query, got []")
        if len(self.seeds) != len(self.scales):
            raise ValueError(f"noise.scales has {len(self.scales)} entries for {len(self.seeds)} seeds")
        keep("stream", check_seed("noise.stream", self.stream))
        if self.stream >= 1 << 32:
            raise ValueError(f"noise.stream must be in [0, 2**32), got {self.stream}")
        keep("offsets", _check_offsets(self.offsets))
        check_choice("noise.distribution", self.distribution, DISTRIBUTIONS)

    @property
    def positions(self) -> tuple[int, ...]:
        """The offsets, with `FIXED` for None."""
        return self.offsets  # type: ignore[return-value]

    def at(self, offsets: Sequence[int | None]) -> TTNoise:
        """The same noise for a layer whose tensors begin at `offsets`."""
        other = object.__new__(TTNoise)
        other.__dict__.update(self.__dict__, offsets=_check_offsets(offsets))
        return other


def _check_offsets(offsets: Sequence[int | None]) -> tuple[int, ...]:
    checked = []
    for i, offset in enumerate(as_sequence("noise.offsets", offsets)):
        fixed = offset is None or (type(offset) is int and offset == FIXED)
        value = FIXED if fixed else check_seed(f"noise.offsets[{i}]", offset)
        if value >= 1 << 62:
            raise ValueError(f"noise.offsets[{i}] must be in [0, 2**62), got {value}")
        checked.append(value)
    return tuple(checked)
