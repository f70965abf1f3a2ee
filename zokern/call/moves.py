"""Scales and decay one a tensor: lists that say them for each, split into moves of equal numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .checks import NO_LISTS, check_factors, check_fp32
from .lists import Lists


def is_row(value: Any) -> bool:
    """Whether `value` holds numbers: a list, a tensor with a dimension; not a number, a 0-d tensor or text."""
    if type(value) in (float, int):  # what nearly every call passes
        return False
    return isinstance(value, Iterable) and not isinstance(value, NO_LISTS) and getattr(value, "ndim", 1) > 0


def materialised(value: Any) -> Any:
    """A row as a list, which can be looked at more than once; anything else as it is."""
    return list(value) if is_row(value) else value


def one_a_tensor(scales: Any, decay: Any) -> bool:
    """Whether either of them says a number or a row for each tensor."""
    return is_row(decay) or (isinstance(scales, list) and any(map(is_row, scales)))


@dataclass(frozen=True)
class Moves:
    """The scales of each term, and the decay, of every tensor; checked."""

    scales: list[list[float]]
    decays: list[float]

    @classmethod
    def of(cls, scales: Any, decay: Any, seeds: int, tensors: int) -> Moves:
        """Numbers that are said once hold for all tensors.

        Raises:
            TypeError, ValueError: an entry is not a number, or there are too many or too few; it is named.
        """
        if isinstance(scales, list) and any(map(is_row, scales)):
            _check_count("scales", "rows", len(scales), tensors)
            rows = []
            for i, row in enumerate(scales):
                if not is_row(row):
                    raise TypeError(f"scales[{i}] must be a row of numbers as other entries are, got {row!r}")
                rows.append(check_factors(f"scales[{i}]", list(row), seeds))
        else:
            rows = [check_factors("scales", scales, seeds)] * tensors
        if not is_row(decay):
            return cls(rows, [check_fp32("decay", decay)] * tensors)
        decays = [check_fp32(f"decay[{i}]", value) for i, value in enumerate(decay)]
        _check_count("decay", "entries", len(decays), tensors)
        return cls(rows, decays)

    def split(self, lists: Lists) -> Iterator[tuple[Lists, list[float], float]]:
        """The tensors that move by equal numbers, each group with its scales and decay."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, (row, decay) in enumerate(zip(self.scales, self.decays)):
            groups.setdefault(tuple(map(float.hex, (*row, decay))), []).append(i)  # 0.0 is not -0.0
        for indices in groups.values():
            params = [lists.params[i] for i in indices]
            out = params if lists.in_place else [lists.out[i] for i in indices]
            places = ([which[i] for i in indices] for which in (lists.streams, lists.offsets))
            first = indices[0]
            yield Lists(params, out, [], *places), self.scales[first], self.decays[first]


def _check_count(name: str, what: str, count: int, tensors: int) -> None:
    if count != tensors:
        raise ValueError(f"{name} has {count} {what} for {tensors} tensors in params")
