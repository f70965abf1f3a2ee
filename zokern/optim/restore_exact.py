r"""`restore="exact"`: base weights are never displaced.

Just before a module's forward, round(w + sum coef * z) of the trainables that it holds itself is
written to a scratch and swapped in (`p.data`); just after, the base comes back. The scratch is a
stack, one buffer a device that is kept between steps: its size is what is nested at once, in most
models the largest layer. Swapping `p.data` rather than the module's entry keeps the parameter's
identity, so tied weights, flat-weight lists of recurrent layers and compiled guards stay right. A
tied weight has one stream and so one perturbed value wherever it is used: it is made once an
evaluation, and kept beside the stack.

A trainable may be read where no hook sees it: nn.MultiheadAttention reads out_proj.weight itself, a
tied head calls F.linear(x, embed.weight), a forward is called without hooks. So every evaluation
watches the tensors that torch functions are given (`_watch.py`). A trainable that was read elsewhere
than in a forward that perturbs it, or kept by a module beyond its forward, is from then on covered by
a snapshot, and that evaluation repeated. One that nobody reads (an expert that no row is sent to)
costs nothing. In a module with nn.MultiheadAttention, which takes another path while it is watched, or
with compiled parts, evaluations 1, 2, 4, 8, ... are watched, and those that leave out a trainable.
What a TorchScript module holds is covered from the start: no hook runs inside it.

A closure that enables gradients (forces, a gradient penalty, checkpointing) keeps tensors for its own
backward: trainables that are read with gradients enabled are covered by the snapshot too, whose memory
is that of those trainables.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ._derived import forget_derived
from ._hooks import ModuleHook, Owned
from ._watch import Frame, Watch
from .engine import Engine, Trainables, same_kind
from .moves import Affine, Apply, Point, uninterrupted
from .restore_snapshot import Snapshot

ALIGN = 64


class Scratch:
    """A stack of bytes a device. Views are kept, so that a step like the last makes no tensor."""

    def __init__(self) -> None:
        self.buffers: dict[torch.device, Tensor] = {}
        self.used: dict[torch.device, int] = {}
        self.peak: dict[torch.device, int] = {}
        self._views: dict[int, tuple[int, Tensor]] = {}

    def take(self, i: int, like: Tensor) -> Tensor:
        """Room for the trainable `i`, with its shape, dtype and (dense) strides."""
        device = like.device
        offset = self.used.get(device, 0)
        size = like.numel() * like.element_size()
        stop = self.used[device] = offset + -(-size // ALIGN) * ALIGN
        self.peak[device] = max(stop, self.peak.get(device, 0))
        buffer = self.buffers.get(device)
        at, view = self._views.get(i, (-1, like))
        if at == offset and view.shape == like.shape and view.dtype == like.dtype:
            return view
        with torch.inference_mode(False):
            if buffer is None or stop > buffer.numel():
                return torch.empty_like(like)  # only until `fit`
            strides = torch.empty_like(like, device="meta").stride()
            flat = buffer[offset : offset + size].view(like.dtype)
            view = flat.as_strided(like.shape, strides, flat.storage_offset())
        self._views[i] = (offset, view)
        return view

    def fit(self) -> None:
        """Empties the stack, and grows the buffers to what was in use at most."""
        for device, peak in self.peak.items():
            self.used[device] = 0
            buffer = self.buffers.pop(device, None)
            if buffer is None or buffer.numel() < peak:
                self._views.clear()
                with torch.inference_mode(False):
                    buffer = torch.empty(peak, dtype=torch.uint8, device=device)
            self.buffers[device] = buffer


class _ForwardHook(ModuleHook):
    """Runs `Exact.enter` before or `Exact.leave` after a module's forward, outside the watch and timed."""

    def __init__(self, engine: Exact, swap: Callable[[Exact, list[int]], None], own: list[int]) -> None:
        super().__init__(engine)
        self.swap, self.own = swap, own

    def act(self) -> None:
        engine = self._engine()
        if not (isinstance(engine, Exact) and engine.active):
            return
        started = time.perf_counter()
        # the parameters themselves, whatever transforms the forward, and reads that no watch sees
        with torch._C._DisableFuncTorch(), torch._C.DisableTorchFunction():
            self.swap(engine, self.own)
        engine.seconds_in_hooks += time.perf_counter() - started


class Exact(Engine):
    """Perturbs copies, module by module; see the top of this file.

    `owners` hold trainables themselves: those that none holds are covered. Before the forward of one of
    `places` its trainables are perturbed.
    """

    mode = "exact"
    defers = False

    def __init__(
        self,
        trainables: Trainables,
        apply: Apply,
        rounding: str,
        *,
        owners: Owned,
        places: Owned,
        seldom_watched: bool = False,
    ) -> None:
        super().__init__(trainables, apply, rounding)
        self.cover = Snapshot(trainables, apply, rounding, indices=[])
        self.scratch = Scratch()
        self.active = False
        self.evaluations = 0
        self.repeated = 0
        self.frames: list[Frame] = []
        self.watcher: Watch | None = None
        self._due: set[int] = set()  # to be swapped in by the next forward that holds them
        self._unseen: set[int] = set()
        self._moves: list[Affine] = []
        self.handles: list[RemovableHandle] = []
        scripted = {m for m in owners if isinstance(m, torch.jit.ScriptModule)}
        for module, own in places.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            enter, leave = _ForwardHook(self, Exact.enter, own), _ForwardHook(self, Exact.leave, own)
            self.handles.append(module.register_forward_pre_hook(enter, prepend=True))
            self.handles.append(module.register_forward_hook(leave, always_call=True))  # if it raised, too
        # attention takes another path, and so rounds otherwise, while a torch function mode is active,
        # and a compiled graph is made anew: what was watched there is run again
        self._seldom_watched = seldom_watched
        self._unread: set[int] = set()  # by any function, when that was last watched
        self._with_gradients: set[int] = set()
        reached = [i for m, own in owners.items() if m not in scripted for i in own]
        self.tied: dict[int, Tensor | None] = {i: None for i, n in Counter(reached).items() if n > 1}
        self._made: set[int] = set()
        self._cover(i for i in self.indices if i not in reached)

    @property
    def pending(self) -> bool:
        return super().pending or self.cover.pending

    @property
    def covered(self) -> list[str]:
        """Names of the trainables that a snapshot covers."""
        return [self.trainables.names[i] for i in self.cover.indices]

    def state(self) -> dict[str, Any]:
        return {"covered": list(self.cover.indices), "evaluations": self.evaluations}

    def load_state(self, state: dict[str, Any]) -> None:
        self.evaluations = state.get("evaluations", self.evaluations)
        self._cover(i for i in state.get("covered", ()) if i not in self.cover.indices)

    # -- moves --------------------------------------------------------------------------------

    def evaluate(self, run: Callable[[], float], offsets: Point) -> float:
        self.revisit(offsets)
        self._moves = [Affine(1.0, o) for o in offsets]
        moving = [any(o.values()) for o in offsets]
        watch = not self._seldom_watched or self.evaluations & (self.evaluations - 1) == 0
        while True:
            self.cover.show(offsets)
            if not any(moving):
                return run()
            value, missed = self._run(run, moving, watch)
            self._cover(missed)
            if watch:
                self._unread = self._unseen.difference(missed)
                watch = bool(missed)
                if not missed and not self._seldom_watched:
                    return value
            elif not missed and self._unseen <= self._unread:
                return value
            else:
                watch = not missed
            self.repeated += 1

    def revisit(self, offsets: Point) -> None:
        if super().pending:
            self.land()
        self.evaluations += any(any(o.values()) for o in offsets)

    def land(self) -> None:
        if super().pending:
            self.update(self.apply, merge=True)
        else:
            self.cover.land()

    def update(self, apply: Apply, merge: bool = False) -> None:
        params = self.trainables.params
        with uninterrupted():
            self.cover.map = self.map
            self._carry_out(params, params, apply, merge)
            if self.cover.indices:
                self.cover.update(apply, merge)
            self.cover.map = self.map

    def hold_still(self, frozen: frozenset[int]) -> None:
        super().hold_still(frozen)
        self.cover.frozen = frozen

    def _cover(self, found: Iterable[int]) -> None:
        self.cover.add(found)
        self.indices = sorted(set(self.indices).difference(self.cover.indices))

    # -- an evaluation ------------------------------------------------------------------------

    def _run(self, run: Callable[[], float], moving: Sequence[bool], watch: bool) -> tuple[float, list[int]]:
        """The value, and the trainables to cover: read unperturbed, or with gradients enabled, when what is
        kept for backward would not last (nor would the value, or an error, of that run)."""
        group = self.trainables.group
        due = [i for i in self.indices if moving[group[i]] and i not in self.frozen]
        self._due, self._unseen = set(due), set(due)
        self._with_gradients = set()
        self._made.clear()
        self.watcher = watcher = Watch(self.trainables.params, due, self.frames) if watch else None
        self.active = True
        value = 0.0
        try:
            with watcher or contextlib.nullcontext():
                value = run()
        except Exception:
            if not self._with_gradients:
                raise
        finally:
            self.active = False
            self.watcher = None
            while self.frames:
                self._restore(self.frames.pop())
            self.scratch.fit()
        return value, sorted(self._with_gradients | (watcher.found if watcher else set()))

    def enter(self, own: list[int]) -> None:
        """Swaps in what a module holds, as far as it is due and not swapped in already."""
        params = self.trainables.params
        bases = {i: params[i].data for i in own if i in self._due}
        frame = Frame(own, bases, dict(self.scratch.used))
        self.frames.append(frame)
        if not bases:
            return
        if torch.is_grad_enabled():
            self._with_gradients.update(bases)
        forget_derived()
        views = self._perturbed(bases)
        for i, view in views.items():
            self._due.discard(i)
            params[i].data = view
        self._unseen.difference_update(bases)
        if self.watcher is not None:
            self.watcher.lend(frame, views.values())

    def _perturbed(self, bases: dict[int, Tensor]) -> dict[int, Tensor]:
        """Perturbed copies of `bases`. Those of tied weights are made once an evaluation."""
        views = {}
        for i, base in bases.items():
            if i not in self.tied:
                views[i] = self.scratch.take(i, base)
                continue
            kept = self.tied[i]
            if kept is None or not same_kind(kept, base):
                with torch.inference_mode(False):
                    kept = self.tied[i] = torch.empty_like(base)
            views[i] = kept
        todo = [i for i in bases if i not in self._made]
        if todo:
            self._walk(self._moves, bases, views, self.apply, indices=todo)
            self._made.update(i for i in todo if i in self.tied)
        return views

    def leave(self, own: list[int]) -> None:
        """Brings the bases back, of this forward and of any it called that was cut short."""
        if not any(frame.own is own for frame in self.frames):
            return
        while True:
            frame = self.frames.pop()
            self._restore(frame)
            if frame.own is own:
                break
        self.scratch.used = frame.height

    def _restore(self, frame: Frame) -> None:
        if frame.bases:
            forget_derived()
        for i, base in frame.bases.items():
            self.trainables.params[i].data = base
            self._due.add(i)
        if self.watcher is not None and self.watcher.outlived(frame):
            self.watcher.found.update(frame.bases)
