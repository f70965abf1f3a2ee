"""Tensors that live in one flat parameter.

A tensor-train layer has a dozen tiny tensors, a model with adapters hundreds. Perturbing them one by
one costs more than the forward pass of the adapter itself, so they are views of one flat fp32
parameter: one tensor for the optimizer, one stream of noise, one entry of `state_dict`. A layer on its
own owns its flat parameter; `pack` gives a whole model one that all its layers look into.

Views are made anew whenever the flat parameter's memory is another (`.to(device)`, `deepcopy`, `load`),
so they can never look at stale memory. Where gradients are wanted they are differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..call.checks import as_sequence, check_kind, check_tensor
from ..call.dispatch import forward_mode
from ..call.memory import check_in_memory
from ..ops import TTNoise

__all__ = ["PackedModule", "TTParameters", "pack"]

Shape = tuple[int, ...]


class Copies(Protocol):
    """What is in force while a model evaluates several perturbed copies at once."""

    def noise(self, module: PackedModule) -> TTNoise | None:
        """What the ops are to perturb the module's parts with, copy by copy."""

    def stacked(self, module: PackedModule) -> Tensor | None:
        """The copies of the flat parameter, (P, n), in place of the one."""


class Home(nn.Module):
    """A module that holds a `flat` parameter and keeps it at 32 bits or more."""

    flat: nn.Parameter
    copies: Copies | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def widened(t: Tensor) -> Tensor:
            moved = fn(t)
            if moved.dtype == t.dtype or moved.element_size() >= 4:
                return moved
            return t.to(device=moved.device)  # a 16-bit model keeps fp32 cores

        return super()._apply(widened, recurse)


class PackedModule(Home):
    """A module whose trainable tensors, its parts, are views of one flat parameter.

    Args:
        shapes: name to shape of each part, in their order in the flat parameter.
        device: of the flat parameter, whose dtype is float32.

    Attributes:
        flat: the flat parameter; absent once the module was packed into a `TTParameters`.
    """

    def __init__(self, shapes: dict[str, Shape], device: torch.device | str | None = None) -> None:
        super().__init__()
        self.shapes = shapes
        self.sizes = [math.prod(shape) for shape in shapes.values()]
        self.flat = nn.Parameter(torch.zeros(sum(self.sizes), dtype=torch.float32, device=device))
        # in a tuple, so that it does not become a submodule, whose state would be saved twice
        self._home: tuple[Home, ...] = ()
        self._views: tuple[Any, tuple[Tensor, ...]] | None = None
        self._place(0)

    @property
    def home(self) -> Home:
        """The module that holds the flat parameter: this one, or the model's `TTParameters`."""
        return self._home[0] if self._home else self

    def _place(self, start: int) -> None:
        self.start = start
        #: where each part begins in the flat parameter
        self.offsets = tuple(start + sum(self.sizes[:i]) for i in range(len(self.sizes)))

    def noise(self) -> TTNoise | None:
        """What the ops are to perturb the parts with, copy by copy; None as a rule."""
        copies = self.home.copies
        return None if copies is None else copies.noise(self)

    def parts(self, device: torch.device | None = None) -> tuple[Tensor, ...]:
        """The parts, as views (as copies, if they are wanted on another device); each with a first
        dimension P while P copies that differ in more than noise are evaluated."""
        copies, flat = self.home.copies, self.home.flat
        if copies is not None and (stacked := copies.stacked(self)) is not None:
            return self._cut(stacked, device)
        if (
            (torch.is_grad_enabled() and flat.requires_grad)
            or torch.compiler.is_compiling()
            or forward_mode()
        ):
            return self._cut(flat, device)
        try:
            key = (flat.data_ptr(), flat.dtype, flat.device, flat.shape, flat.stride(), flat.is_neg())
        except RuntimeError:  # a tensor without memory: fake, or inside a torch.func transform
            return self._cut(flat, device)
        if self._views is None or self._views[0] != key:
            with torch.inference_mode(False):
                self._views = (key, self._cut(flat.detach(), None))
        views = self._views[1]
        if device is not None and device != flat.device:
            return self._cut(flat.detach(), device)
        return views

    def _cut(self, flat: Tensor, device: torch.device | None) -> tuple[Tensor, ...]:
        segment = flat.narrow(-1, self.start, sum(self.sizes))  # [n] or [P, n]
        if device is not None and device != segment.device:
            segment = segment.to(device)
        pieces = segment.split(self.sizes, dim=-1)
        lead = segment.shape[:-1]
        return tuple(piece.view(*lead, *shape) for piece, shape in zip(pieces, self.shapes.values()))

    def __getstate__(self) -> dict[str, Any]:
        # for copies and pickles: views would become tensors of their own
        return {**self.__dict__, "_views": None}

    def move_in(self, home: TTParameters, start: int) -> None:
        """Gives up the own flat parameter for a place in `home`'s."""
        del self.flat
        self._home, self._views = (home,), None
        self._place(start)


class TTParameters(Home):
    """All tensor-train parameters of a model, in one flat parameter.

    Registered on the model by `pack`; the layers look into it.

    Attributes:
        flat: float32, every part of every packed module.
        names: of the packed modules, in order.
    """

    def __init__(self, modules: dict[str, PackedModule]) -> None:
        super().__init__()
        flats = [module.flat.detach() for module in modules.values()]
        self.flat = nn.Parameter(torch.cat([f.to(flats[0].device) for f in flats]))
        self.names = list(modules)
        # per module: where its parts start and how they are shaped
        self.layout: dict[str, tuple[int, dict[str, Shape]]] = {}
        at = 0
        for name, module in modules.items():
            self.layout[name] = (at, dict(module.shapes))
            at += sum(module.sizes)

    def named_parts(self) -> Iterator[tuple[str, Tensor]]:
        """("<module>.<part>", view without gradient) for each part of each module."""
        for name, (at, shapes) in self.layout.items():
            for part, shape in shapes.items():
                size = math.prod(shape)
                yield f"{name}.{part}", self.flat.detach()[at : at + size].view(shape)
                at += size

    def forward(self, x: Any) -> Any:
        """x itself: a `nn.Sequential` runs all of its children, this one too."""
        return x

    def extra_repr(self) -> str:
        return f"{self.flat.numel():,} parameters of {len(self.names)} modules"


def packed_modules(root: nn.Module) -> dict[str, PackedModule]:
    """The packed modules of a model by name, each once."""
    return {name: m for name, m in root.named_modules() if isinstance(m, PackedModule)}


def pack(root: nn.Module, *, name: str = "tt_parameters") -> TTParameters:
    """Moves the tensor-train parameters of all of a model's layers into one flat parameter.

    Args:
        root: the model; it gets the `TTParameters` as a submodule. Optimizers made before hold
            parameters that are no longer in use: make them afterwards.
        name: of the submodule.

    Returns:
        The submodule.

    Raises:
        ValueError: there is no such layer, one is packed already, or `root` has an attribute `name`.

    Example:
        >>> model = nn.Sequential(TTLinear(64, 64), nn.ReLU(), TTLinear(64, 10))
        >>> pack(model).flat.shape
        torch.Size([...])
    """
    check_kind("root", root, nn.Module, "a module")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be an identifier, got {name!r}")
    modules = packed_modules(root)
    if not modules:
        raise ValueError("root has no tensor-train layer to pack")
    if hasattr(root, name):
        raise ValueError(f"root already has an attribute named {name!r}; choose another name=")
    for path, module in modules.items():
        if module._home:
            raise ValueError(f"{path} is packed already")
    shared = TTParameters(modules)
    shared.flat.requires_grad_(any(m.flat.requires_grad for m in modules.values()))
    root.add_module(name, shared)
    for path, module in modules.items():
        module.move_in(shared, shared.layout[path][0])
    return shared


def as_float32(name: str, tensor: Tensor) -> Tensor:
    """A given part as the flat parameter holds it."""
    check_in_memory(name, check_tensor(name, tensor))
    return tensor.detach().to(torch.float32)


def whole_cores(name: str, cores: Iterable[Tensor]) -> list[Tensor]:
    """Cores in float32 and of three dimensions each: the first and the last may come without their rank of 1."""
    made = [
        as_float32(f"{name}[{i}]", core)
        for i, core in enumerate(as_sequence(name, cores, "a list of tensors"))
    ]
    if made and made[0].dim() == 2:
        made[0] = made[0].unsqueeze(0)
    if len(made) > 1 and made[-1].dim() == 2:
        made[-1] = made[-1].unsqueeze(-1)
    for i, core in enumerate(made):
        if core.dim() != 3:
            raise ValueError(f"{name}[{i}] has shape {tuple(core.shape)}; a core is (r, k, r')")
    return made


def numbered(name: str, shapes: Iterable[Shape]) -> dict[str, Shape]:
    """The shapes of parts named "<name>.0", "<name>.1", ..."""
    return {f"{name}.{i}": shape for i, shape in enumerate(shapes)}
