"""Seeds are a pure function of (run seed, step, query): nothing is drawn, stored or exchanged."""

from __future__ import annotations

from .call.checks import check_seed

STREAM_VERSION = "zk-v1"
_MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int], rounds: int = 10) -> tuple[int, ...]:
    """Philox4x32 on Python integers: four 32-bit words from a counter and a key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def derive_seed(run_seed: int, step: int, query: int = 0) -> int:
    """The 64-bit seed of one query of one step.

    First two words (lo, hi) of `philox4x32-10(counter = (step lo, step hi, query, 0x5eed), key = run_seed)`.
    Every rank of a distributed run, and every replay, derives the same seed with no communication.

    Args:
        run_seed: the run's seed, int in [0, 2**64).
        step: step number, int in [0, 2**64).
        query: query number within the step, int in [0, 2**32).

    Returns:
        An int in [0, 2**64).

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is out of range.

    Example:
        >>> hex(zokern.derive_seed(0, step=0)) == hex(zokern.derive_seed(0, 0, 0))
        True
    """
    run_seed = check_seed("run_seed", run_seed)
    step = check_seed("step", step)
    query = check_seed("query", query)
    if query > _MASK:
        raise ValueError(f"query must be in [0, 2**32), got {query}")
    lo, hi, *_ = philox4x32((step & _MASK, step >> 32, query, 0x5EED), (run_seed & _MASK, run_seed >> 32))
    return hi << 32 | lo
