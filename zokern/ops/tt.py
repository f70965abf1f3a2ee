"""`tt_halves`, `tt_linear` and `tt_adapter`: layers whose weight is a tensor train, never formed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..call import tt_prepared as prepared
from ..call.checks import check_choice, check_fp32, check_integer, check_no_grad, check_tensor
from ..call.codes import ACTIVATIONS
from ..call.dispatch import forward_mode, has_tangent, transformed
from ..call.lists import tell_autograd
from ..call.memory import is_wrapped, resolved
from ..call.tt_layers import TTLayer, adapter_layers, check_cores, check_x, count_queries, linear_layers
from ..call.tt_noise import TTNoise
from ..call.tt_plan import TTPlan, check_groups, make_plan
from ..call.tt_rows import check_out
from .tt_registered import GROUPS_CODE, composed, flat, reference

_LISTS = (list, tuple)
_GROUPS = (str, int)
_SPLITS = (int, type(None))


def tt_halves(cores: Sequence[Tensor], split: int) -> tuple[Tensor, Tensor]:
    r"""The two halves of a tensor train, each grown from its rank-1 boundary inward.

    .. math:: A = G_1 \cdots G_{split} \in R^{in \times r}, \quad
              B = G_{split+1} \cdots G_n \in R^{r \times out}, \quad W = A B

    Args:
        cores: fp32 tensors ``(r_{i-1}, k_i, r_i)`` with r_0 = r_n = 1, or ``(P, r_{i-1}, k_i, r_i)``,
            one set a query. Any number on either side.
        split: number of cores on the input side.

    Returns:
        A ``(in, r)`` and B ``(r, out)``, with a leading P where the cores have it. Differentiable.

    Raises:
        TypeError, ValueError: what `cores` or `split` is not, by name and value.

    Cost: r² times the products of the modes, never r³; the halves run on two threads where they are
        large enough to gain from it.

    Source: bipartite contraction, AdaZeta (arXiv:2406.18060), section 3.2.

    Example:
        >>> a, b = zokern.tt_halves([torch.randn(1, 4, 3), torch.randn(3, 5, 1)], split=1)
        >>> a.shape, b.shape
        (torch.Size([4, 3]), torch.Size([3, 5]))
    """
    layer = check_cores("cores", cores, "split", split)
    if _is_composed(layer.cores):
        return reference("tt_halves_composed", cores[0])(layer)
    left, right = torch.ops.zokern.tt_halves(list(layer.cores), layer.plan.split)
    return left, right


def tt_linear(
    x: Tensor, cores: Sequence[Tensor], split: int, bias: Tensor | None = None, *,
    groups: int | str = "auto", out: Tensor | None = None, noise: TTNoise | None = None,
) -> Tensor:  # fmt: skip
    r"""A linear layer whose weight is a tensor train: :math:`y = x\,(A B) + bias`, W never formed.

    Args:
        x: ``(..., in)``, float32, bfloat16 or float16 (float64 with float64 cores), any strides and
            leading sizes, which y keeps.
        cores: fp32 tensors ``(r_{i-1}, k_i, r_i)`` with r_0 = r_n = 1, whatever x's dtype: bf16 cores
            would put an error of 16-29 % on the difference of two probes. Or ``(P, r_{i-1}, k_i, r_i)``,
            one set a query: x is then ``(P * B, ...)`` and rows ``[p B, (p + 1) B)`` use set p.
        split: number of cores on the input side.
        bias: ``(out,)`` in the cores' dtype, or ``(P, out)``.
        groups: "auto", or 2, 3, 4 groups of cores to contract before x meets them; see `tt_cost`.
        out: where to write, of y's shape and of x's dtype or float32 (then y is not rounded). It may
            not share memory with x unless it is x.
        noise: perturbed copies of cores and bias are made inside the call; see `TTNoise`. x is then
            ``(P * B, ...)`` with P seeds. Equal, bit for bit, to perturbing copies with `perturb_` and
            giving them as ``(P, ...)`` cores.

    Returns:
        y ``(..., out)``: sums in fp32, rounded to x's dtype once.

    Raises:
        TypeError, ValueError: an argument does not fit, by name and value.
        RuntimeError: `out` or `noise` while grad mode is on and an input requires grad.

    On the CPU all instruction sets and thread counts give the same bits, and a row's do not depend on
    the rows beside it. Other backends agree to fp32 rounding.

    Cost: `tt_cost` counts it. Reads x once, writes y once.

    Source: AdaZeta (arXiv:2406.18060), section 3.2.

    Example:
        >>> cores = [torch.randn(1, 8, 5), torch.randn(5, 8, 5), torch.randn(5, 16, 1)]
        >>> zokern.tt_linear(torch.randn(2, 1, 64), cores, split=2).shape
        torch.Size([2, 1, 16])
    """
    key: tuple | None = None
    tensors: tuple[Tensor, ...] = ()
    fixed = type(cores) in _LISTS and type(split) is int and type(groups) in _GROUPS
    if fixed and not torch.compiler.is_compiling():
        tensors = (*cores,) if bias is None else (*cores, bias)
        key = (*map(id, tensors), bias is None, split, groups)
        ready = prepared.CACHE.get(key)
        if ready is not None and (y := ready(x, tensors, out, noise)) is not None:
            return y
    layers = linear_layers(cores, split, bias)
    arguments = (list(layers[0].cores), bias, layers[0].plan.split)
    return _run("tt_linear", x, layers, arguments, key, tensors, "identity", 1.0, groups, out, noise)


def tt_adapter(
    x: Tensor, down: Sequence[Tensor], up: Sequence[Tensor], *, down_split: int | None = None,
    up_split: int | None = None, down_bias: Tensor | None = None, up_bias: Tensor | None = None,
    activation: str = "relu", scale: float = 1.0, groups: int | str = "auto", out: Tensor | None = None,
    noise: TTNoise | None = None,
) -> Tensor:  # fmt: skip
    r"""A bottleneck adapter of two tensor-train layers, with its residual, in one call.

    .. math:: y = x + \mathrm{scale} \cdot \mathrm{up}(\mathrm{act}(\mathrm{down}(x)))

    Args:
        x: ``(..., hidden)``; dtypes, strides and the query dimension as in `tt_linear`.
        down: cores of hidden -> bottleneck, as in `tt_linear`.
        up: cores of bottleneck -> hidden.
        down_split, up_split: cores on the input side; default half of them.
        down_bias, up_bias: ``(bottleneck,)`` and ``(hidden,)``, or with a leading P.
        activation: "relu", "gelu" (the exact form), "silu", "tanh" or "identity".
        scale: factor of the adapter's output, rounded to fp32.
        groups: as in `tt_linear`, for each of the two layers.
        out: where to write; `x` itself for in place. As in `tt_linear`.
        noise: as in `tt_linear`; its offsets are those of down, down_bias, up, up_bias.

    Returns:
        y, of x's shape and dtype, rounded once.

    Raises:
        TypeError, ValueError: an argument does not fit, by name and value.
        RuntimeError: `out` or `noise` while grad mode is on and an input requires grad.

    Cost: reads x and writes y once; in place at hidden 4096 and rank 5 it runs at the speed of memory.

    Source: AdaZeta (arXiv:2406.18060), section 3.2; the adapter of Houlsby et al. (2019).

    Example:
        >>> down = [torch.randn(1, 8, 5), torch.randn(5, 8, 5), torch.randn(5, 4, 1)]
        >>> up = [torch.randn(1, 4, 5), torch.randn(5, 8, 5), torch.zeros(5, 8, 1)]
        >>> x = torch.randn(3, 64)
        >>> torch.equal(zokern.tt_adapter(x, down, up, down_split=2), x)
        True
    """
    key: tuple | None = None
    tensors: tuple[Tensor, ...] = ()
    factor = scale if type(scale) is float else check_fp32("scale", scale)
    fixed = (
        type(down) in _LISTS and type(up) in _LISTS and type(activation) is str and type(groups) in _GROUPS
        and type(down_split) in _SPLITS and type(up_split) in _SPLITS
    )  # fmt: skip
    if fixed and not torch.compiler.is_compiling():
        biases = [b for b in (down_bias, up_bias) if b is not None]
        tensors = (*down, *up, *biases)
        key = (*map(id, tensors), len(down), down_bias is None, up_bias is None, down_split, up_split,
               activation, factor, groups)  # fmt: skip
        ready = prepared.CACHE.get(key)
        if ready is not None and (y := ready(x, tensors, out, noise)) is not None:
            return y
    layers = adapter_layers(down, up, down_split, up_split, down_bias, up_bias)
    check_choice("activation", activation, ACTIVATIONS)
    factor = check_fp32("scale", factor)
    splits = [layer.plan.split for layer in layers]
    arguments = (*(list(layer.cores) for layer in layers), down_bias, up_bias, *splits, activation, factor)
    return _run("tt_adapter", x, layers, arguments, key, tensors, activation, factor, groups, out, noise)


def tt_cost(cores: Sequence[Tensor], split: int, rows: int = 1, *, groups: int | str = "auto") -> TTPlan:
    """How `tt_linear` would contract these cores for `rows` rows (of one query), and what it costs.

    Args:
        cores, split: as in `tt_linear`.
        rows: rows of x that use one set of cores.
        groups: "auto" picks the cheapest of the bipartite (2), tripartite (3) and quadripartite (4)
            groupings; a number asks for one.

    Returns:
        A `TTPlan`: `.groups`, `.in_cut`, `.out_cut`, `.macs(rows)`, `.flops(rows)`, `.bytes(rows)`.

    Raises:
        TypeError, ValueError: an argument does not fit, by name and value.

    Example:
        >>> shapes = [(1, 16, 5), (5, 16, 5), (5, 16, 5), (5, 4, 5), (5, 4, 5), (5, 4, 1)]
        >>> plan = zokern.tt_cost([torch.empty(s) for s in shapes], split=3, rows=128)
        >>> plan.groups, plan.flops(128)
    """
    plan = check_cores("cores", cores, "split", split).plan
    return make_plan(plan.modes, plan.ranks, plan.split, check_integer("rows", rows, 0), groups)


def _is_composed(tensors: Sequence[Tensor]) -> bool:
    """Whether a call of these tensors asks what the registered op has no formula for: derivatives in forward
    mode, or a transform of `torch.func`."""
    if torch.compiler.is_compiling():
        return forward_mode()
    if forward_mode() and any(map(has_tangent, tensors)):
        return True
    return transformed() and any(map(is_wrapped, tensors))


def _run(
    op: str, x: Tensor, layers: tuple[TTLayer, ...], arguments: tuple, key: tuple | None,
    tensors: Sequence[Tensor], activation: str, scale: float, groups: int | str, out: Tensor | None,
    noise: TTNoise | None,
) -> Tensor:  # fmt: skip
    """Checks and runs a call that was not prepared. Later ones are, where a CPU kernel can keep the layers."""
    if (
        isinstance(x, Tensor)
        and x.layout == torch.strided
        and out is not x
        and not torch.compiler.is_compiling()
    ):
        x = resolved(x)
    check_tensor("x", x)
    is_composed = _is_composed((x, *(tensor for layer in layers for tensor in layer.tensors)))
    if is_composed and (out is not None or noise is not None):
        raise RuntimeError(
            f"{'noise' if out is None else 'out'} is for forward passes only, but an input carries a tangent "
            f"(forward-mode derivatives) or is inside a transform of torch.func"
        )
    groups = _check_call(x, layers, groups, out, noise)
    if is_composed:
        return composed(op, x, layers, *((activation, scale) if op == "tt_adapter" else ()))
    if key is not None and prepared.may_be_prepared(tensors):
        _, kernel = backends.select(op, "cpu")
        ready = prepared.prepare(kernel, layers, tensors, activation, scale, groups, backends.choice)
        if ready is not None and (y := ready(x, tensors, out, noise)) is not None:
            prepared.keep(key, ready, tensors)
            return y
    arguments = (*arguments, GROUPS_CODE[groups], *flat(noise))
    if out is None:
        return getattr(torch.ops.zokern, op)(x, *arguments)
    if out is x and op == "tt_adapter":
        torch.ops.zokern.tt_adapter_(x, *arguments)
    else:
        getattr(torch.ops.zokern, f"{op}_out")(x, *arguments, out)
    if not torch.compiler.is_compiling():
        tell_autograd([out])
    return out


def _check_call(
    x: Tensor, layers: Sequence[TTLayer], groups: int | str, out: Tensor | None,
    noise: TTNoise | None,
) -> int | str:  # fmt: skip
    """Everything about a call beyond its layers; `groups`."""
    check_x(x, layers[0].plan, layers[0].cores[0])
    for layer in layers:
        groups = check_groups(groups, len(layer.cores), layer.plan.split)
    count_queries(x, layers[0].queries, sum(len(layer.tensors) for layer in layers), noise)
    if out is not None:
        check_out(out, x, layers[-1].plan.out_features)
        check_no_grad("out", [out])
    if (out is None and noise is None) or not torch.is_grad_enabled():
        return groups
    if x.requires_grad or any(t.requires_grad for layer in layers for t in layer.tensors):
        raise RuntimeError(
            f"{'noise' if out is None else 'out'} is for forward passes only, but an input requires grad and "
            f"grad mode is on; call under torch.no_grad()"
        )
    return groups
