"""A linear layer whose weight is a tensor train."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..call.checks import check_flag
from ..call.tt_layers import linear_layers
from .factorize import Modes, core_shapes, resolve_modes
from .init import check_place, fill_cores_, start_std
from .packed import PackedModule, as_float32, numbered, whole_cores
from .tt_svd import tt_svd

__all__ = ["TTLinear"]


class TTLinear(PackedModule):
    r"""y = x W + b with W (in x out) held as tensor-train cores, never formed in a forward.

    .. math:: W = G_1 \cdots G_o \, G_{o+1} \cdots G_n, \quad G_i \in R^{r_{i-1} \times k_i \times r_i}

    The cores of the input sizes contract to A (in x r), those of the output sizes to B (r x out), both
    concurrently, and y = (x A) B + b. All parameters are float32 (the input may be 16-bit) and views of
    one flat parameter, `flat`.

    Args:
        in_features, out_features: any sizes; primes too.
        rank: inner TT-rank, or one for each of the inner boundaries.
        clip_ranks: whether ranks are lowered to what the sizes can make use of; False keeps them as given,
            as published cores have them.
        modes: (factors of in, factors of out), as ([8, 8, 12], [4, 4, 4]); any number on either side.
            Default: three near-balanced factors a side, ascending for in and descending for out.
        bias: whether there is a bias, which starts at 0.
        std: root mean square of W's entries at the start; default 1 / sqrt(in_features).
        generator: of the CPU, for the start values.
        device: of the parameters.

    Attributes:
        ranks: the inner ranks in use.

    Shape: (*, in_features) to (*, out_features).

    Raises:
        ValueError: a size, mode or rank is not positive, or modes do not multiply to the sizes.

    Source: Novikov et al. 2015, "Tensorizing neural networks"; AdaZeta (arXiv:2406.18060), section 3.2.

    Example:
        >>> layer = TTLinear(768, 64, rank=5)
        >>> layer(torch.randn(2, 10, 768)).shape, layer.flat.numel()
        (torch.Size([2, 10, 64]), 940)
    """

    tt_error: float | None = None
    """Relative error of W made by `from_linear`: ||W - W_tt|| / ||W|| (Frobenius)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | Sequence[int] = 5,
        *,
        modes: Modes | None = None,
        clip_ranks: bool = True,
        bias: bool = True,
        std: float | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        bias = check_flag("bias", bias)
        check_place(generator, device)
        in_modes, out_modes = resolve_modes(modes, in_features=in_features, out_features=out_features)
        in_features, out_features = math.prod(in_modes), math.prod(out_modes)
        cores = core_shapes(in_modes, out_modes, rank, check_flag("clip_ranks", clip_ranks))
        start = start_std("std", std, in_features)
        shapes = numbered("core", cores)
        if bias:
            shapes["bias"] = (out_features,)
        super().__init__(shapes, device)
        self.in_features, self.out_features = in_features, out_features
        self.in_modes, self.out_modes = in_modes, out_modes
        self.split = len(in_modes)
        self.ranks = [core[-1] for core in cores[:-1]]
        self.has_bias = bias
        if not self.flat.is_meta:
            fill_cores_(self.cores, start, generator)

    @classmethod
    def from_cores(cls, cores: Sequence[Tensor], split: int, bias: Tensor | None = None) -> TTLinear:
        """The layer of given cores, of any sizes and ranks, also larger than the sizes can make use of.

        Args:
            cores: (r_{i-1}, k_i, r_i) each, of a floating dtype; the first may be (k_1, r_1), the last
                (r_{n-1}, k_n). They are copied as float32.
            split: number of cores on the input side.
            bias: (out_features,), or None.

        Raises:
            TypeError, ValueError: what `cores`, `split` or `bias` is not, by name and value.

        Example:
            >>> shapes = [(8, 5), (5, 8, 5), (5, 12, 5), (5, 4, 5), (5, 4, 5), (5, 4)]  # table 9 of AdaZeta
            >>> TTLinear.from_cores([torch.randn(s) for s in shapes], split=3).ranks
            [5, 5, 5, 5, 5]
        """
        whole = whole_cores("cores", cores)
        (layer,) = linear_layers(whole, split, None if bias is None else as_float32("bias", bias))
        plan = layer.plan
        modes = (list(plan.modes[: plan.split]), list(plan.modes[plan.split :]))
        made = cls(
            plan.in_features, plan.out_features, list(plan.ranks[1:-1]), modes=modes, clip_ranks=False,
            bias=bias is not None, device=whole[0].device,
        )  # fmt: skip
        with torch.no_grad():
            for part, value in zip(made.parts(), layer.tensors):
                part.copy_(value)
        return made

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        rank: int | Sequence[int] | None = None,
        *,
        tolerance: float | None = None,
        modes: Modes | None = None,
    ) -> TTLinear:
        """The layer nearest to a dense one, by TT-SVD.

        Args:
            linear: an `nn.Linear`, or any module with such a weight (out, in) and bias.
            rank: largest inner rank, or each of them.
            tolerance: largest relative error of W (Frobenius), in [0, 1).
            modes: see the class.

        Returns:
            A layer on the same device; its `tt_error` is the relative error reached.

        Raises:
            TypeError: `linear` has no weight matrix.
            ValueError: neither rank nor tolerance is given, or one is out of range.
        """
        weight = getattr(linear, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise TypeError(f"linear must have a weight matrix, got {type(linear).__name__}")
        # transformers' Conv1D, which has an `nf`, holds (in, out)
        matrix = weight.detach() if hasattr(linear, "nf") else weight.detach().T
        bias = getattr(linear, "bias", None)
        n_in, n_out = matrix.shape
        modes = resolve_modes(modes, in_features=n_in, out_features=n_out)
        cores, error = tt_svd(matrix, *modes, rank=rank, tolerance=tolerance)
        ranks = [core.shape[-1] for core in cores[:-1]]
        layer = cls(n_in, n_out, ranks, modes=modes, bias=bias is not None, device=weight.device)
        with torch.no_grad():
            for part, value in zip(layer.parts(), cores if bias is None else [*cores, bias]):
                part.copy_(value)
        layer.tt_error = error
        return layer

    def _cores_and_bias(self, device: torch.device | None = None) -> tuple[list[Tensor], Tensor | None]:
        cores = list(self.parts(device))
        bias = cores.pop() if self.has_bias else None
        return cores, bias

    @property
    def cores(self) -> list[Tensor]:
        """Views of the cores, (r_{i-1}, k_i, r_i)."""
        return self._cores_and_bias()[0]

    @property
    def bias(self) -> Tensor | None:
        """View of the bias, (out_features,)."""
        return self._cores_and_bias()[1]

    def weight(self) -> Tensor:
        """W as `nn.Linear` has it, (out_features, in_features): for export and tests."""
        left, right = ops.tt_halves(self.cores, self.split)
        return (left @ right).T

    def to_linear(self) -> nn.Linear:
        """A dense float32 layer with this weight and bias."""
        linear = nn.Linear(self.in_features, self.out_features, self.has_bias, device=self.home.flat.device)
        with torch.no_grad():
            linear.weight.copy_(self.weight())
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x must end in {self.in_features} features, got shape {tuple(x.shape)}")
        cores, bias = self._cores_and_bias(x.device)
        return ops.tt_linear(x, cores, self.split, bias, noise=self.noise())

    def extra_repr(self) -> str:
        modes = "|".join("x".join(map(str, side)) for side in (self.in_modes, self.out_modes))
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, modes={modes}, "
            f"ranks={self.ranks}, bias={self.has_bias}"
        )
