"""How much memory a run held at most."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

import torch

__all__ = ["peak_memory", "reset_peak_memory"]


def reset_peak_memory(device: torch.device) -> None:
    """Forgets the peak so far (loading a model takes more than running it), where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # see proc(5): the resident set's high-water mark


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU what PyTorch allocated there, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
