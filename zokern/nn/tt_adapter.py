"""A bottleneck adapter whose two projections are tensor trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..call.checks import as_sequence, check_choice, check_finite, check_flag, check_fp32, shown
from ..call.codes import ACTIVATIONS
from ..call.tt_layers import adapter_layers, check_cores
from .factorize import Modes, core_shapes, resolve_modes
from .init import check_place, fill_cores_, start_std
from .packed import PackedModule, as_float32, numbered, whole_cores

__all__ = ["ACTIVATIONS", "TTAdapter"]

_BIASES: dict[bool | str, tuple[bool, bool]] = {
    True: (True, True),
    False: (False, False),
    "down": (True, False),
    "up": (False, True),
}


def check_bias(bias: object) -> bool | str:
    """Which projections have a bias."""
    if not isinstance(bias, (str, bool, np.bool_)) or (isinstance(bias, str) and bias not in _BIASES):
        raise ValueError(f"bias must be True, False, 'down' or 'up', got {shown(bias)}")
    return bias if isinstance(bias, str) else bool(bias)


class TTAdapter(PackedModule):
    r"""y = x + scale * up(activation(down(x))), both projections tensor trains with float32 cores.

    `down` is hidden x bottleneck with modes [hidden ascending | bottleneck descending], `up` its mirror
    image. It starts as the identity, to the bit, whatever the dtype of x: the largest core of `up` is
    zero (and its bias), all others are drawn, so that this core sees gradients at once.

    Args:
        hidden: features of x; any size, primes too.
        bottleneck: features in between.
        rank: inner TT-rank, or one for each inner boundary of `down` (mirrored for `up`).
        clip_ranks: whether ranks are lowered to what the sizes can make use of; False keeps them as given,
            as published cores have them.
        activation: "relu", "gelu", "silu", "tanh" or "identity".
        scale: of what is added to x.
        bias: True, False, "down" or "up": which projections have one. The up bias is as wide as the
            model: at hidden 4096 and rank 5 it is 2 of 3 parameters.
        init: "identity", or "gaussian": `up` is drawn in full, as the paper starts.
        std: root mean square of the entries of (down, up) at the start; default
            1 / sqrt(hidden) and 1 / sqrt(bottleneck). With "identity" that of `up` before its largest
            core was zeroed.
        modes: (factors of hidden, factors of bottleneck) as they stand in `down`.
        generator: of the CPU, for the start values.
        device: of the parameters.

    Shape: (*, hidden) to the same; leading sizes of 1 stay.

    Raises:
        ValueError: a size, rank, mode, activation, bias, init or scale is out of its range.

    Cost: no more than one read and one write of x, and 2 r (hidden + bottleneck) multiply-adds a token
        (fewer, with shared prefixes: see `tt_adapter`).

    Source: AdaZeta (Yang et al. 2024, arXiv:2406.18060), section 2.2 and figure 2.

    Example:
        >>> adapter = TTAdapter(4096, 64, rank=5)
        >>> x = torch.randn(4, 1, 4096, dtype=torch.bfloat16)
        >>> torch.equal(adapter(x), x)
        True
    """

    def __init__(
        self,
        hidden: int,
        bottleneck: int = 64,
        rank: int | Sequence[int] = 5,
        *,
        activation: str = "relu",
        scale: float = 1.0,
        bias: bool | str = "down",
        init: str = "identity",
        std: tuple[float | None, float | None] = (None, None),
        modes: Modes | None = None,
        clip_ranks: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_choice("activation", activation, ACTIVATIONS)
        check_fp32("scale", scale)
        bias = check_bias(bias)
        check_choice("init", init, ("identity", "gaussian"))
        check_place(generator, device)
        outer, inner = resolve_modes(modes, hidden=hidden, bottleneck=bottleneck)
        hidden, bottleneck = math.prod(outer), math.prod(inner)
        stds = as_sequence("std", std, "two numbers")
        if len(stds) != 2:
            raise ValueError(f"std must be two numbers, for down and up, got {shown(std)}")
        down_std, up_std = start_std("std[0]", stds[0], hidden), start_std("std[1]", stds[1], bottleneck)
        down = core_shapes(outer, inner, rank, check_flag("clip_ranks", clip_ranks))
        has_down, has_up = _BIASES[bias]
        # in the order in which `tt_adapter` takes the noise's offsets
        shapes = numbered("down", down)
        if has_down:
            shapes["down_bias"] = (bottleneck,)
        shapes |= numbered("up", (core[::-1] for core in reversed(down)))
        if has_up:
            shapes["up_bias"] = (hidden,)
        super().__init__(shapes, device)
        self.hidden, self.bottleneck = hidden, bottleneck
        self.hidden_modes, self.bottleneck_modes = outer, inner
        self.activation, self.scale, self.bias = activation, check_finite("scale", scale), bias
        self.count = len(down)  # cores of each projection
        self.ranks = [core[-1] for core in down[:-1]]  # of `down`
        if not self.flat.is_meta:
            self._fill(init, down_std, up_std, generator)

    @classmethod
    def from_cores(
        cls, down: Sequence[Tensor], up: Sequence[Tensor], *, split: int | None = None,
        down_bias: Tensor | None = None, up_bias: Tensor | None = None, activation: str = "relu", scale: float = 1.0,
    ) -> TTAdapter:  # fmt: skip
        """The adapter of given cores, of any ranks, also larger than the sizes can make use of.

        Args:
            down: cores of hidden -> bottleneck, as `TTLinear.from_cores` takes them.
            up: cores of bottleneck -> hidden, of the mirrored shapes.
            split: number of cores of `down` on the side of hidden; default half of them.
            down_bias, up_bias: (bottleneck,) and (hidden,), or None.
            activation, scale: see the class.

        Raises:
            TypeError, ValueError: what an argument is not, by name and value.
        """
        whole, mirror = whole_cores("down", down), whole_cores("up", up)
        shapes = [tuple(core.shape[::-1]) for core in reversed(whole)]
        if [tuple(core.shape) for core in mirror] != shapes:
            found = [tuple(core.shape) for core in mirror]
            raise ValueError(f"up must have the mirrored shapes of down, {shapes}, got {found}")
        first = check_cores("down", whole, "split", split)
        plan = first.plan
        biases = {"down_bias": down_bias, "up_bias": up_bias}
        given = {name: as_float32(name, bias) for name, bias in biases.items() if bias is not None}
        adapter_layers(
            whole, mirror, plan.split, len(whole) - plan.split, given.get("down_bias"), given.get("up_bias")
        )
        which: dict[tuple[bool, bool], bool | str] = {
            (True, True): True,
            (False, False): False,
            (True, False): "down",
            (False, True): "up",
        }
        made = cls(
            plan.in_features, plan.out_features, list(plan.ranks[1:-1]), activation=activation, scale=scale,
            bias=which["down_bias" in given, "up_bias" in given], clip_ranks=False, device=whole[0].device,
            modes=(list(plan.modes[: plan.split]), list(plan.modes[plan.split :])),
        )  # fmt: skip
        with torch.no_grad():
            now_down, now_down_bias, now_up, now_up_bias = made._projections()
            for part, value in zip([*now_down, *now_up], [*whole, *mirror]):
                part.copy_(value)
            if now_down_bias is not None:
                now_down_bias.copy_(given["down_bias"])
            if now_up_bias is not None:
                now_up_bias.copy_(given["up_bias"])
        return made

    @torch.no_grad()
    def _fill(self, init: str, down_std: float, up_std: float, generator: torch.Generator | None) -> None:
        down, up = self.down, self.up
        fill_cores_(down, down_std, generator)
        fill_cores_(up, up_std, generator)
        if init == "identity":
            max(up, key=Tensor.numel).zero_()

    def _projections(
        self, device: torch.device | None = None
    ) -> tuple[list[Tensor], Tensor | None, list[Tensor], Tensor | None]:
        """down, down_bias, up, up_bias."""
        parts, n = self.parts(device), self.count
        has_down, has_up = _BIASES[self.bias]
        middle = n + has_down
        down_bias = parts[n] if has_down else None
        up_bias = parts[-1] if has_up else None
        return list(parts[:n]), down_bias, list(parts[middle : middle + n]), up_bias

    @property
    def down(self) -> list[Tensor]:
        """Views of the cores of the down projection."""
        return self._projections()[0]

    @property
    def down_bias(self) -> Tensor | None:
        """View of the bias of the down projection, (bottleneck,)."""
        return self._projections()[1]

    @property
    def up(self) -> list[Tensor]:
        """Views of the cores of the up projection."""
        return self._projections()[2]

    @property
    def up_bias(self) -> Tensor | None:
        """View of the bias of the up projection, (hidden,)."""
        return self._projections()[3]

    def delta(self) -> tuple[Tensor, Tensor]:
        """The two matrices, (hidden, bottleneck) and (bottleneck, hidden): for export and tests."""
        down = ops.tt_halves(self.down, len(self.hidden_modes))
        up = ops.tt_halves(self.up, len(self.bottleneck_modes))
        return down[0] @ down[1], up[0] @ up[1]

    def forward(self, x: Tensor, *, inplace: bool = False) -> Tensor:
        """The adapter's output.

        Args:
            x: (*, hidden), float32, bfloat16 or float16.
            inplace: write over x (ignored where gradients are recorded).
        """
        if x.shape[-1] != self.hidden:
            raise ValueError(f"x must end in hidden = {self.hidden} features, got shape {tuple(x.shape)}")
        down, down_bias, up, up_bias = self._projections(x.device)
        return ops.tt_adapter(
            x,
            down,
            up,
            down_split=len(self.hidden_modes),
            up_split=len(self.bottleneck_modes),
            down_bias=down_bias,
            up_bias=up_bias,
            activation=self.activation,
            scale=self.scale,
            out=x if inplace and not torch.is_grad_enabled() else None,
            noise=self.noise(),
        )

    def extra_repr(self) -> str:
        modes = "|".join("x".join(map(str, side)) for side in (self.hidden_modes, self.bottleneck_modes))
        return (
            f"hidden={self.hidden}, bottleneck={self.bottleneck}, modes={modes}, ranks={self.ranks}, "
            f"activation={self.activation}, scale={self.scale:g}, bias={self.bias!r}"
        )
