"""Several perturbed copies of a small trainable set, evaluated by one forward of the frozen rest.

A zeroth-order step of Q queries evaluates 2Q points. Where the trainable set is small (adapters, LoRA,
a head), all 2Q perturbed copies exist at once and the batch is repeated 2Q times: row block p of every
activation belongs to copy p, and each trainable module applies copy p to block p. A frozen module
never knows.

`BatchedCopies` does that behind an ordinary closure. It takes the place of the model's `forward` while
the closure runs: the first run's calls are evaluated for all copies and kept, and the closure gets the
rows of copy 0; it is then run once per further copy and gets that copy's rows, with no forward. So the
closure is what it would be in a loop, its loss may be of any kind, and it is called as often.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..nn.packed import Home, PackedModule
from ..ops import TTNoise
from .engine import Trainables
from .moves import Pass, Point, seed_of
from .perturbation import Directions, FullDirections

__all__ = ["BatchedCopies"]


class _Outside:
    """In force while a closure runs, outside the model's own forward."""

    def noise(self, module: PackedModule) -> TTNoise | None:
        raise RuntimeError(
            "the closure runs a part of the model on its own; with evaluation='batched' it must call the "
            "module that the optimizer was given (evaluation='loop' takes any closure)"
        )

    def stacked(self, module: PackedModule) -> Tensor | None:
        return None


class _Inside:
    """In force within the forward: what row block p has of copy p."""

    def __init__(self, noises: Mapping[int, TTNoise], stacks: Mapping[int, Tensor]) -> None:
        self._noises, self._stacks = noises, stacks

    def noise(self, module: PackedModule) -> TTNoise | None:
        """Noise that the kernel adds to the parts, copy by copy; None: none, or `stacked` has it."""
        noise = self._noises.get(id(module.home.flat))
        return None if noise is None else noise.at(module.offsets)

    def stacked(self, module: PackedModule) -> Tensor | None:
        """The copies of the flat parameter, [P, n]."""
        return self._stacks.get(id(module.home.flat))


def linear_copies(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` with row block p of x [P*B, ..., in] under weight[p] [out, in] and bias[p] [out]."""
    blocks = x.reshape(len(weight), -1, x.shape[-1])
    if bias is None:
        y = torch.bmm(blocks, weight.transpose(1, 2))
    else:
        y = torch.baddbmm(bias[:, None], blocks, weight.transpose(1, 2))
    return y.reshape(*x.shape[:-1], weight.shape[1])


class BatchedCopies:
    """Evaluates a closure that calls `root` at several points with one forward, or with one for at most
    `max_parallel` copies. Refuses a module whose trainables cannot have several copies."""

    def __init__(
        self,
        root: nn.Module,
        trainables: Trainables,
        directions: Directions,
        *,
        max_parallel: int | None = None,
    ) -> None:
        self.root = root
        self.trainables = trainables
        self.directions = directions
        self.max_parallel = max_parallel
        self.homes: list[Home] = []
        self.linears: list[nn.Linear] = []
        self._packed: list[int] = []  # ordinals of the flat parameters
        self._calls: list[tuple[Any, list[Any]]] = []  # what the model was given, every copy's output
        self._points: list[Point] = []
        self._copy = self._at = 0
        # a parameter that was frozen since has one value for all copies
        self._ordinal = {id(p): i for i, p in enumerate(trainables.params) if p.requires_grad}
        for name, module in root.named_modules():
            own = [p for p in module._parameters.values() if p is not None and id(p) in self._ordinal]
            if isinstance(module, Home):
                self.homes += [module]
                self._packed += [self._ordinal[id(p)] for p in own]
            elif type(module) is nn.Linear and own and "forward" not in module.__dict__:
                self.linears += [module]
            elif own:
                raise ValueError(
                    f"evaluation='batched': {name or 'the model'} ({type(module).__name__}) is trained "
                    f"and cannot have several copies at once; TT layers and plain nn.Linear can. "
                    f"Use evaluation='loop'"
                )

    @contextlib.contextmanager
    def at(self, points: Sequence[Point]) -> Iterator[None]:
        """Within it, `run(closure, i)` gives the closure's value at `points[i]`."""
        self._forward: Callable[..., Any] = self.root.forward
        self._points, self._calls = list(points), []
        with _forwards({self.root: self._answer}), self._homes_have(_Outside(), then=None):
            try:
                yield
            finally:
                self._calls = []

    def run(self, closure: Callable[[], Any], index: int) -> Any:
        """The closure's value at `points[index]`; in order, 0 first."""
        self._copy, self._at = index, 0
        value = closure()
        if self._at != len(self._calls):
            raise RuntimeError(_DIFFERS.format(f"{self._at} calls after {len(self._calls)}"))
        return value

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward, as the closure sees it."""
        if self._at == len(self._calls):
            if self._copy > 0:
                raise RuntimeError(_DIFFERS.format("one call more than before"))
            self._calls.append(((args, kwargs), self._evaluate(args, kwargs)))
        inputs, outputs = self._calls[self._at]
        if not _same((args, kwargs), inputs):
            raise RuntimeError(_DIFFERS.format("other inputs than before"))
        self._at += 1
        return outputs[self._copy]

    def _evaluate(self, args: Any, kwargs: Any) -> list[Any]:
        """Outputs of all copies."""
        for name, module in self.root.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                raise RuntimeError(
                    f"{name} is a batch norm in training mode, which would mix the copies' rows; call "
                    f"model.eval(), or use evaluation='loop'"
                )
            if isinstance(module, _DropoutNd) and module.training and module.p > 0.0:
                raise RuntimeError(
                    f"{name} is a dropout of p = {module.p:g} in training mode, which would drop other "
                    f"elements for each copy; call model.eval(), or use evaluation='loop'"
                )
        most = self.max_parallel or len(self._points)
        outputs: list[Any] = []
        for first in range(0, len(self._points), most):
            points = self._points[first : first + most]
            count = len(points)
            linears: dict[nn.Module, Callable[..., Any]] = {
                linear: functools.partial(
                    linear_copies,
                    weight=self._copies_of(linear.weight, points),
                    bias=None if linear.bias is None else self._copies_of(linear.bias, points),
                )
                for linear in self.linears
            }
            with _forwards(linears), self._homes_have(self._inside(points), then=_Outside()):
                # a root that is itself a trained linear layer has a forward of copies now
                forward = self.root.forward if self.root in linears else self._forward
                batched = forward(*_repeat(args, count), **_repeat(kwargs, count))
            outputs += [_rows(batched, p, count) for p in range(count)]
        return outputs

    @contextlib.contextmanager
    def _homes_have(self, copies: _Outside | _Inside, then: _Outside | None) -> Iterator[None]:
        """Within it, the tensor-train layers have these copies; after it, those of `then`."""
        for home in self.homes:
            home.copies = copies
        try:
            yield
        finally:
            for home in self.homes:
                home.copies = then

    def _copies_of(self, tensor: Tensor, points: Sequence[Point]) -> Tensor:
        """The perturbed copies of a parameter, [P, ...]; of one that is not trained, views."""
        i = self._ordinal.get(id(tensor))
        if i is None:
            return tensor.expand(len(points), *tensor.shape)
        group = self.trainables.group[i]
        stacked = torch.empty(len(points), *tensor.shape, dtype=tensor.dtype, device=tensor.device)
        for point, out in zip(points, stacked):
            self.directions.apply(Pass([i], group, [tensor.detach()], [out], 1.0, point[group]))
        return stacked

    def _inside(self, points: Sequence[Point]) -> _Inside:
        """What the tensor-train layers get: noise for their kernels where each copy has one seed at
        most, else the copies themselves, which are small."""
        noises, stacks = {}, {}
        for i in self._packed:
            p, group = self.trainables.params[i], self.trainables.group[i]
            terms = [point[group] for point in points]
            if isinstance(self.directions, FullDirections) and all(len(t) <= 1 for t in terms):
                noises[id(p)] = TTNoise(
                    seeds=[seed_of(next(iter(t), 0)) for t in terms],
                    scales=[next(iter(t.values()), 0.0) for t in terms],
                    offsets=[],
                    stream=i,
                    distribution=self.directions.distribution,
                )
            else:
                stacks[id(p)] = self._copies_of(p, points)
        return _Inside(noises, stacks)


@contextlib.contextmanager
def _forwards(new: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within it, modules have other forwards."""
    own = {module: module.__dict__.get("forward") for module in new}
    try:
        for module, forward in new.items():
            module.forward = forward  # type: ignore[method-assign, assignment]
        yield
    finally:
        for module, before in own.items():
            module.__dict__.pop("forward", None)
            if before is not None:
                module.forward = before


_DIFFERS = (
    "evaluation='batched': the closure must call the model in the same way each time it is run, but "
    "made {}. A closure whose inputs depend on the model's outputs (generation) or that draws its batch "
    "itself needs evaluation='loop', or the batch drawn outside"
)


def _repeat(value: Any, count: int) -> Any:
    """`value` with every tensor of one dimension or more repeated along the first, block by block."""
    if isinstance(value, Tensor):
        return value.repeat(count, *[1] * (value.dim() - 1)) if value.dim() else value
    return _map(value, lambda v: _repeat(v, count))


def _rows(value: Any, index: int, count: int) -> Any:
    """Block `index` of `count` of every tensor in an output."""
    if isinstance(value, Tensor):
        if value.dim() == 0 or len(value) % count:
            raise RuntimeError(
                f"evaluation='batched': the model returned a tensor of shape {tuple(value.shape)}, which "
                f"does not divide among {count} copies. Compute the loss in the closure, from outputs "
                f"that have the batch first (logits; no labels= argument), or use evaluation='loop'"
            )
        size = len(value) // count
        return value[index * size : (index + 1) * size]
    return _map(value, lambda v: _rows(v, index, count))


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """A container of the same kind with changed entries; anything else as it is."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(change, value))
    if isinstance(value, Mapping):
        if type(value) is dict:
            return {key: change(entry) for key, entry in value.items()}
        changed: Any = copy.copy(value)
        for key in list(value):
            changed[key] = change(value[key])
        return changed
    return value


def _same(one: Any, other: Any) -> bool:
    """Whether two inputs are equal, tensors by value."""
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        return bool(one == other)
    except (RuntimeError, ValueError, TypeError):
        return True  # no notion of equality
