"""Peak resident memory of full tuning by method, each in a fork of its own.

    python -m benchmarks.peak_memory [--size small|smollm2]

A randomly initialised Llama takes four steps (MeZO-SVRG: two full ones over two micro-batches, and two
others). One JSON line a method: bytes that the process holds at its peak, beyond those before the model
was made. "smollm2" has the shape of SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zokern.optim import MeZO, MeZOSVRG, SparseMeZO, ZOAdam, ZOAdaMU, weighted_mean

SIZES: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 16384,
    },
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
}
METHODS: dict[str, Callable[[Any], Any]] = {
    "MeZO": MeZO,
    "MeZO-SVRG": MeZOSVRG,
    "MeZO-SVRG, anchor copied": lambda model: MeZOSVRG(model, anchor="copy"),
    "ZOAdaMU": lambda model: ZOAdaMU(model, schedule=10),
    "ZOAdam": ZOAdam,
    "SparseMeZO": SparseMeZO,
}


def resident(field: str) -> int:
    """ "VmRSS", what the process holds now, or "VmHWM", what it has held at most, in bytes."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024


def run(method: str, size: str) -> dict[str, Any]:
    """Four steps of a method on batches of two rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    before = resident("VmRSS")
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], tie_word_embeddings=True, max_position_embeddings=64)
    model = LlamaForCausalLM(config).eval()
    with open("/proc/self/clear_refs", "w") as peaks:
        peaks.write("5")  # forgets the peak: a tied model is made with a head that it then drops
    optimizer = METHODS[method](model)
    batches = torch.randint(config.vocab_size, (2, 2, 32))

    def loss(batch: Tensor) -> Tensor:
        return model(batch, labels=batch).loss

    extra = {"full_closure": weighted_mean(loss, list(batches))} if method.startswith("MeZO-SVRG") else {}
    for step in range(4):
        optimizer.step(lambda batch=batches[step % 2]: loss(batch), **extra)
    return {
        "method": method,
        "size": size,
        "trainables": 4 * sum(p.numel() for p in optimizer.trainables),
        "peak": resident("VmHWM") - before,
    }


def in_a_fork(method: str, size: str) -> dict[str, Any]:
    """`run` in a fork of this process, whose memory it inherits and no more."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(run(method, size)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as line:
        result = line.read()
    os.wait()
    return json.loads(result)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    import transformers  # noqa: F401  once, before the forks

    torch.set_num_threads(1)  # a fork has one
    for method in arguments.methods:
        print(json.dumps(in_a_fork(method, arguments.size)), flush=True)


if __name__ == "__main__":
    main()
