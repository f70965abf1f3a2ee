"""Common random numbers: dropout and other random layers draw the same numbers in all losses of a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from ..random import derive_seed

QUERY = 0xFFFFFFFF
"""Of `derive_seed`: beyond the queries of a step."""


def generators() -> list[torch.Generator]:
    """PyTorch's global generators: of the CPU, and of every accelerator that is in use."""
    found = [torch.default_generator]
    for module in (torch.cuda, torch.xpu):
        if module.is_available() and module.is_initialized():
            found += module.default_generators
    if torch.backends.mps.is_available():
        found.append(torch.mps._get_default_mps_generator())
    return found


class CommonRandomNumbers:
    """Sets the global generators before each loss, and puts them back."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._seed = 0
        self._generators: Sequence[torch.Generator] = ()

    @contextlib.contextmanager
    def of(self, run_seed: int, step: int) -> Iterator[None]:
        """Within it, `renew` sets the state that the losses of a step share. Global state is afterwards
        what it was before."""
        if not self.enabled:
            yield
            return
        self._seed = derive_seed(run_seed, step, QUERY)
        self._generators = generators()
        before = [generator.get_state() for generator in self._generators]
        try:
            yield
        finally:
            for generator, state in zip(self._generators, before):
                generator.set_state(state)
            self._generators = ()

    def renew(self) -> None:
        """Before a loss: the state that it starts from."""
        for generator in self._generators:
            generator.manual_seed(self._seed)
