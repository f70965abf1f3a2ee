"""Queries in a loop against queries in parallel, from one adapter to a whole step of SmolLM2's shape.

    python -m benchmarks.bench_queries [--threads N] [--quick]

adapter   2Q = 8 perturbed evaluations of one adapter, rank 5, on N tokens each.
  loop         what `evaluation="loop"` does: perturb_ of the whole adapter in one call, then tt_adapter on the
               N rows; eight times. The loop of the README's ratios: nothing is written tensor by tensor
  loop, fused  eight tt_adapter calls that make the perturbed cores inside
  loop, given  eight tt_adapter calls, the perturbed copies given
  torch loop   the copies given, halves and (xA)B in plain PyTorch; eight times
  batched      one tt_adapter over 8 N rows, perturbed cores made inside from (seed, stream, +-eps)
perturb   all adapters of 32 layers of width 4096, once, with the default biases and with both.
  per tensor       torch.normal and add_ for each tensor
  MeZO expression  p.data = p.data + scale * z * eps for each, as published trainers write it
  one call         perturb_ of the flat parameter
step      AdaZeta on a random model of SmolLM2-135M's shape with 60 adapters, Q = 4.
forward   the same model without adapters, with them, and with them in plain PyTorch.
A run with --threads keeps the other rows of results/queries.jsonl.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zokern
from zokern.nn import TTAdapter, add_tt_adapters
from zokern.optim import AdaZeta
from zokern.optim.engine import Trainables
from zokern.optim.moves import Point
from zokern.optim.parallel import BatchedCopies
from zokern.optim.perturbation import FullDirections

from .timing import RESULTS, Writer, interleaved, machine_line, saved, table
from .tt_cases import Layer, plain_adapter

SEEDS = [1, 1, 2, 2, 3, 3, 4, 4]  # 2Q = 8
EPS = 1e-3
SCALES = [EPS, -EPS] * 4
Cases = dict[str, Callable[[], Any]]


def scrambled(hidden: int, bias: bool | str = True) -> TTAdapter:
    generator = torch.Generator().manual_seed(0)
    return TTAdapter(hidden, 64, 5, bias=bias, init="gaussian", generator=generator)


def plain(x: Tensor, adapter: TTAdapter) -> Tensor:
    """The adapter in plain PyTorch."""
    biases = adapter.down_bias, adapter.up_bias
    assert biases[0] is not None and biases[1] is not None
    down, up = (
        Layer(list(cores), adapter.count // 2, bias)
        for cores, bias in zip((adapter.down, adapter.up), biases)
    )
    return plain_adapter(x.reshape(-1, x.shape[-1]), down, up).reshape(x.shape)


def adapter_cases(hidden: int, tokens: int) -> Cases:
    adapter, probe = scrambled(hidden), scrambled(hidden)
    x = torch.randn(8 * tokens, hidden, generator=torch.Generator().manual_seed(1))
    blocks = list(x.split(tokens))
    copies = [scrambled(hidden) for _ in SEEDS]
    for seed, scale, copy in zip(SEEDS, SCALES, copies):
        zokern.perturb_(adapter.flat, seed, scale, out=copy.flat)
    offsets = adapter.offsets
    one_by_one = [zokern.TTNoise([seed], [scale], offsets) for seed, scale in zip(SEEDS, SCALES)]
    together = zokern.TTNoise(SEEDS, SCALES, offsets)
    fused = functools.partial(
        zokern.tt_adapter, down=list(adapter.down), up=list(adapter.up), down_split=3, up_split=3,
        down_bias=adapter.down_bias, up_bias=adapter.up_bias,
    )  # fmt: skip

    def loop() -> list[Tensor]:
        outputs = []
        for seed, scale, block in zip(SEEDS, SCALES, blocks):
            zokern.perturb_(adapter.flat, seed, scale, out=probe.flat)
            outputs.append(probe(block))
        return outputs

    cases: Cases = {
        "loop": loop,
        "loop, fused": lambda: [fused(block, noise=noise) for block, noise in zip(blocks, one_by_one)],
        "loop, given": lambda: [copy(block) for copy, block in zip(copies, blocks)],
        "torch loop": lambda: [plain(block, copy) for copy, block in zip(copies, blocks)],
        "batched": lambda: fused(x, noise=together).split(tokens),
    }
    expected = torch.cat(cases["torch loop"]())
    for name, run in cases.items():  # no speed is printed of a wrong result
        error = float((torch.cat(list(run())) - expected).abs().max() / expected.abs().max())
        assert error < 1e-5, (name, hidden, tokens, error)
    return cases


def perturb_cases(bias: bool | str) -> Cases:
    adapters = [scrambled(4096, bias) for _ in range(64)]
    flat = torch.cat([adapter.flat for adapter in adapters])
    tensors = [part for adapter in adapters for part in adapter.parts()]
    print(f"{len(tensors)} tensors, {flat.numel():,} parameters")

    def per_tensor() -> None:
        for p in tensors:
            p.add_(torch.normal(0.0, 1.0, size=p.shape), alpha=EPS)

    def mezo_expression() -> None:
        for p in tensors:
            z = torch.normal(mean=0.0, std=1.0, size=p.data.size(), device=p.device, dtype=p.dtype)
            p.data = p.data + 1.0 * z * EPS

    return {
        "per tensor": per_tensor,
        "MeZO expression": mezo_expression,
        "one call": lambda: zokern.perturb_(flat, 7, EPS),
    }


def smollm2_shape(layers: int) -> nn.Module:
    """Random weights: times do not depend on them."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


class LastToken(nn.Module):
    """The logits of two words after the last token, as a prompted classifier computes them."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.lm.model(ids, use_cache=False).last_hidden_state[:, -1]
        return F.linear(hidden, self.lm.lm_head.weight[:2])


def step_cases(model: LastToken, rows: int, length: int) -> Cases:
    ids = torch.randint(49152, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(rows) % 2

    def closure() -> float:
        return F.cross_entropy(model(ids), labels).item()

    flat = model.lm.tt_adapters.flat
    points: list[Point] = [[{seed: scale}] for seed, scale in zip(SEEDS, SCALES)]
    copies = BatchedCopies(model, Trainables([flat], ["flat"], [0], 1), FullDirections("gaussian"))
    kept = flat.detach().clone()
    looped = []
    for seed, scale in zip(SEEDS, SCALES):
        zokern.perturb_(kept, seed, scale, out=flat)
        looped.append(closure())
    flat.copy_(kept)
    with copies.at(points):
        batched = [copies.run(closure, i) for i in range(len(points))]
    worst = max(abs(a - b) for a, b in zip(looped, batched))
    assert worst < 1e-5, worst
    return {
        row: functools.partial(AdaZeta(model, lr=0.0, schedule=4, evaluation=evaluation).step, closure)
        for row, evaluation in (("loop", "loop"), ("parallel", "batched"))
    }


def forward_cases(model: LastToken, rows: int, length: int) -> Cases:
    ids = torch.randint(49152, (rows, length), generator=torch.Generator().manual_seed(1))
    bare = LastToken(smollm2_shape(len(model.lm.model.layers)))
    peer = LastToken(smollm2_shape(len(model.lm.model.layers)))
    for adapter in add_tt_adapters(peer.lm, bias=True).adapters:
        # the same parameters through plain PyTorch, at the same places
        adapter.forward = functools.partial(_plain, adapter)  # type: ignore[method-assign]
    return {
        "without adapters": lambda: bare(ids),
        "with adapters": lambda: model(ids),
        "with adapters, plain PyTorch": lambda: peer(ids),
    }


def _plain(adapter: TTAdapter, x: Tensor, inplace: bool = False) -> Tensor:
    return plain(x, adapter)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, two layers, no files written")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="default: both")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    quick = arguments.quick
    repeats = 1 if quick else arguments.repeats
    print(machine_line())
    path = RESULTS / "queries.jsonl"
    threads_wanted = (arguments.threads,) if arguments.threads else (1, 2)
    kept = [r for r in saved(path) if r["threads"] not in threads_wanted]
    with Writer("/dev/null") if quick else Writer(path, kept) as writer:

        def run(part: str, case: str, threads: int, cases: Cases, rounds: int = repeats) -> None:
            base = next(iter(cases))
            timings = interleaved(cases, rounds, min_seconds=0.01)
            shown = []
            for name, t in timings.items():
                ratio = timings[base].p50 / t.p50
                shown.append([name, f"{t.p50 * 1e3:.3f}", f"{ratio:.2f}"])
                writer.row(
                    op=part, case=case, backend=name, threads=threads, p20=t.p20, p50=t.p50, p80=t.p80,
                    base=base, ratio=ratio,
                )  # fmt: skip
            print(f"\n{part}: {case}, {threads} thread(s)")
            print(table(shown, ["", "ms", f"{base} / this"]), flush=True)

        model = LastToken(smollm2_shape(2 if quick else 30))
        add_tt_adapters(model.lm, bias=True, init="gaussian")
        few = min(repeats, 3)  # a second a round
        for threads in threads_wanted:
            torch.set_num_threads(threads)
            for hidden in (4096, 576):
                for tokens in (1, 4, 16, 128):
                    case = f"hidden {hidden}, N = {tokens}, 2Q = 8"
                    run("adapter", case, threads, adapter_cases(hidden, tokens))
            for bias in ("down", True):
                biases = "both biases" if bias is True else "down bias"
                case = f"64 adapters of 4096, rank 5, {biases}"
                run("perturb", case, threads, perturb_cases(bias))
            for rows, length in ((1, 4), (1, 16), (4, 16)):
                case = f"Q = 4, batch {rows} x {length} tokens"
                run("step", case, threads, step_cases(model, rows, length), few)
            for rows, length in ((1, 16), (8, 64)):
                case = f"batch {rows} x {length} tokens"
                run("forward", case, threads, forward_cases(model, rows, length), few)
    if not quick:
        print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
