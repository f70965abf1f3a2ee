"""What the benchmarks run on, and how many bytes it moves."""

from __future__ import annotations

import torch
from torch import Tensor


def gpt2_small_shapes() -> list[tuple[int, ...]]:
    """The 148 parameter shapes of GPT-2 small, 124.4 M elements."""
    d = 768
    block = [
        (d,),
        (d,),
        (d, 3 * d),
        (3 * d,),
        (d, d),
        (d,),
        (d,),
        (d,),
        (d, 4 * d),
        (4 * d,),
        (4 * d, d),
        (d,),
    ]
    return [(50257, d), (1024, d), *(shape for _ in range(12) for shape in block), (d,), (d,)]


PERTURB_CASES: dict[str, list[tuple[int, ...]]] = {
    "gpt2-small, 148 tensors": gpt2_small_shapes(),
    "one tensor of 100 M": [(100_000_000,)],
}


def weights(shapes: list[tuple[int, ...]], dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Weights of rms 0.02, as a trained model's."""
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(shape, generator=generator, device=device).mul_(0.02).to(dtype) for shape in shapes]


def moved_bytes(params: list[Tensor]) -> int:
    """Bytes of one in-place pass: each element read once and written once."""
    return 2 * sum(p.numel() * p.element_size() for p in params)
