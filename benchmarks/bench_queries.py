"""Queries in a loop against queries in parallel, from one adapter to a whole step of SmolLM2's shape.

    python -m benchmarks.bench_queries [--quick]

adapter   2Q = 8 perturbed evaluations of one adapter on N tokens each.
  loop        perturb_ into a copy of the adapter's parameters, then tt_adapter; eight times
  loop, bare  tt_adapter alone, eight times, the perturbed copies given
  torch loop  the copies given, halves and (xA)B in plain PyTorch; eight times
  batched     one tt_adapter over 8 N rows, perturbed cores made inside from (seed, stream, +-eps)
perturb   all adapters of 32 layers of width 4096, once.
  per tensor  torch.normal and add_ for each of the 896 tensors
  one call    perturb_ of the flat parameter
step      AdaZeta on a random model of SmolLM2-135M's shape with 60 adapters, Q = 4.
forward   the same model without adapters, with them, and with them in plain PyTorch.
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
from zokern.nn import TTAdapter, add_tt_adapters, remove_tt_adapters
from zokern.nn.queries import BatchedCopies, Point, Trainable
from zokern.optim import AdaZeta

from .timing import RESULTS, Timing, Writer, interleaved, machine_line, table

SEEDS = [1, 1, 2, 2, 3, 3, 4, 4]  # 2Q = 8
EPS = 1e-3
SCALES = [EPS, -EPS] * 4


def scrambled(hidden: int) -> TTAdapter:
    generator = torch.Generator().manual_seed(0)
    return TTAdapter(hidden, 64, 5, bias=True, init="gaussian", generator=generator)


def plain(x: Tensor, adapter: TTAdapter) -> Tensor:
    """The adapter in plain PyTorch: halves, then (xA)B."""
    halves = []
    for cores in (adapter.down[:3], adapter.down[3:], adapter.up[:3], adapter.up[3:]):
        product = cores[0]
        for core in cores[1:]:
            product = torch.tensordot(product, core, dims=1)
        halves.append(
            product.reshape(-1, product.shape[-1])
            if product.shape[0] == 1
            else product.reshape(len(product), -1)
        )
    a, b, c, d = halves
    assert adapter.down_bias is not None and adapter.up_bias is not None
    h = torch.relu(torch.addmm(adapter.down_bias, x.float() @ a, b))
    return (x.float() + torch.addmm(adapter.up_bias, h @ c, d)).to(x.dtype)


def adapter_cases(hidden: int, tokens: int) -> dict[str, Callable[[], Any]]:
    adapter = scrambled(hidden)
    x = torch.randn(8 * tokens, hidden, generator=torch.Generator().manual_seed(1))
    blocks = list(x.split(tokens))
    probe = scrambled(hidden)
    copies = []
    for seed, scale in zip(SEEDS, SCALES):
        copy = scrambled(hidden)
        zokern.perturb_(adapter.flat, seed, scale, out=copy.flat)
        copies.append(copy)
    noise = zokern.TTNoise(SEEDS, SCALES, adapter.offsets)

    def loop() -> Tensor:
        outputs = []
        for seed, scale, block in zip(SEEDS, SCALES, blocks):
            zokern.perturb_(adapter.flat, seed, scale, out=probe.flat)
            outputs.append(probe(block))
        return torch.cat(outputs)

    def batched() -> Tensor:
        return zokern.tt_adapter(
            x, adapter.down, adapter.up, down_split=3, up_split=3, down_bias=adapter.down_bias,
            up_bias=adapter.up_bias, noise=noise,
        )  # fmt: skip

    cases = {
        "loop": loop,
        "loop, bare": lambda: torch.cat([copy(block) for copy, block in zip(copies, blocks)]),
        "torch loop": lambda: torch.cat([plain(block, copy) for copy, block in zip(copies, blocks)]),
        "batched": batched,
    }
    expected = cases["torch loop"]()
    for name, run in cases.items():  # no speed is printed of a wrong result
        error = float((run() - expected).abs().max() / expected.abs().max())
        assert error < 1e-5, (name, hidden, tokens, error)
    return cases


def perturb_cases() -> dict[str, Callable[[], Any]]:
    adapters = [scrambled(4096) for _ in range(64)]
    flat = torch.cat([adapter.flat for adapter in adapters])
    tensors = [part for adapter in adapters for part in adapter.parts()]
    print(f"{len(tensors)} tensors, {flat.numel():,} parameters")

    def per_tensor() -> None:
        for p in tensors:
            p.add_(torch.normal(0.0, 1.0, size=p.shape), alpha=EPS)

    return {"per tensor": per_tensor, "one call": lambda: zokern.perturb_(flat, 7, EPS)}


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


def step_cases(model: LastToken, rows: int, length: int) -> dict[str, Callable[[], Any]]:
    ids = torch.randint(49152, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(rows) % 2

    def closure() -> float:
        return F.cross_entropy(model(ids), labels).item()

    flat = model.lm.tt_adapters.flat
    points = [Point(seed, (scale,)) for seed, scale in zip(SEEDS, SCALES)]
    copies = BatchedCopies(model, [Trainable(flat, 0, 0)])
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
        queries: functools.partial(AdaZeta(model, lr=0.0, schedule=4, queries=queries).step, closure)
        for queries in ("loop", "parallel")
    }


def forward_cases(model: LastToken, rows: int, length: int) -> dict[str, Callable[[], Any]]:
    ids = torch.randint(49152, (rows, length), generator=torch.Generator().manual_seed(1))
    bare = LastToken(smollm2_shape(len(model.lm.model.layers)))
    peer = LastToken(smollm2_shape(len(model.lm.model.layers)))
    for adapter in add_tt_adapters(peer.lm, bias=True).adapters:
        # the same parameters through plain PyTorch, at the same places
        adapter.forward = functools.partial(_plain_rows, adapter)  # type: ignore[method-assign]
    return {
        "without adapters": lambda: bare(ids),
        "with adapters": lambda: model(ids),
        "with adapters, plain PyTorch": lambda: peer(ids),
    }


def _plain_rows(adapter: TTAdapter, x: Tensor, inplace: bool = False) -> Tensor:
    return plain(x.reshape(-1, x.shape[-1]), adapter).reshape(x.shape)


def show(timings: dict[str, Timing], base: str) -> None:
    rows = [[name, f"{t.p50 * 1e3:.3f}", f"{timings[base].p50 / t.p50:.2f}"] for name, t in timings.items()]
    print(table(rows, ["", "ms", f"x {base}"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, few layers, no files written")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("adapter", "perturb", "step", "forward"))
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    repeats, quick = (1, True) if arguments.quick else (arguments.repeats, False)
    whole = not quick and arguments.only is None
    print(machine_line())

    def wanted(part: str) -> bool:
        return arguments.only in (None, part)

    with Writer(RESULTS / "queries.jsonl" if whole else "/dev/null") as writer:

        def run(
            part: str, case: str, cases: dict[str, Callable[[], Any]], threads: int, base: str, **clock: Any
        ) -> None:
            torch.set_num_threads(threads)
            timings = interleaved(cases, repeats, **clock)
            print(f"\n{part}: {case}, {threads} thread(s)")
            show(timings, base)
            for name, t in timings.items():
                writer.row(
                    op=part, case=case, backend=name, threads=threads, p20=t.p20, p50=t.p50, p80=t.p80,
                    ratio=timings[base].p50 / t.p50, base=base,
                )  # fmt: skip

        if wanted("adapter"):
            for hidden in (4096, 576):
                for tokens in (1, 4, 16, 128):
                    for threads in (1, 2):
                        torch.set_num_threads(threads)
                        cases = adapter_cases(hidden, tokens)
                        run(
                            "adapter",
                            f"hidden {hidden}, N = {tokens}, 2Q = 8",
                            cases,
                            threads,
                            "loop",
                            min_seconds=0.02,
                        )
        if wanted("perturb"):
            for threads in (1, 2):
                run(
                    "perturb",
                    "32 layers of 4096, 64 adapters",
                    perturb_cases(),
                    threads,
                    "per tensor",
                    min_seconds=0.02,
                )
        layers = 2 if quick else 30
        if wanted("step") or wanted("forward"):
            model = LastToken(smollm2_shape(layers))
            add_tt_adapters(model.lm, bias=True, init="gaussian")
        if wanted("step"):
            for rows, length in ((1, 4), (1, 16), (4, 16), (8, 64)):
                run(
                    "step",
                    f"Q = 4, batch {rows} x {length} tokens",
                    step_cases(model, rows, length),
                    2,
                    "loop",
                )
        if wanted("forward"):
            for rows, length in ((1, 16), (8, 64)):
                run(
                    "forward",
                    f"batch {rows} x {length} tokens",
                    forward_cases(model, rows, length),
                    2,
                    "without adapters",
                )
            remove_tt_adapters(model)
    if whole:
        print(f"\nwrote {RESULTS / 'queries.jsonl'}")


if __name__ == "__main__":
    main()
