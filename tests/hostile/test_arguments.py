"""Every argument of every public signature, given each hostile value in turn.

Either the value is taken with the meaning that the documentation gives, which is what the argument's kind in
`table.py` lists, or an error names the argument, and all tensors are as they were.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.hostile.table import CALLS, RESULTS, WITHOUT_ARGUMENTS, Call, public
from tests.hostile.values import HOSTILE
from zokern.backends import BackendUnavailable
from zokern.optim.options import Common

_FOREIGN = re.compile(
    r"iteration over|float\(\) argument|not supported between|unhashable|not iterable|has no attribute|"
    r"object cannot be interpreted|unsupported operand|not callable|has no len|truth value|could not be"
)
CASES = [
    pytest.param(call, argument, id=f"{call.function.__qualname__}-{argument}")
    for call in CALLS
    for argument in call.kinds
]


def name_of(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def arguments_of(function: Any) -> set[str]:
    """The names that a call may use; of `**options`, those of the classes above."""
    found: set[str] = set()
    constructors = [function] if not inspect.isclass(function) else [
        c for c in function.__mro__ if c.__module__.startswith("zokern.") and "__init__" in vars(c)
    ]  # fmt: skip
    for constructor in constructors:
        signature = inspect.signature(constructor)
        kinds = {p.kind for p in signature.parameters.values()}
        found |= {p.name for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD}
        if constructor is not function:
            found.discard("defaults")  # which a method gives to the classes above
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
        if not inspect.isclass(function):
            break
        if "common" in signature.parameters:
            found |= set(Common.__annotations__)
            break
    return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.state_dict(keep_vars=True).values()
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)


def run(call: Call, given: dict[str, Any]) -> None:
    result = call.function(**given)
    if call.within:
        with result:
            pass
    close = getattr(result, "close", None)
    if close is not None and not isinstance(result, Tensor):
        close()


def test_every_public_signature_is_in_the_table() -> None:
    known = {name_of(call.function) for call in CALLS}
    free = {name_of(value) for value in (*RESULTS, *WITHOUT_ARGUMENTS)}
    missing = {
        name_of(value)
        for value in public()
        if name_of(value) not in known | free
        and not (
            inspect.isclass(value)
            and issubclass(value, (BaseException, nn.Module))
            and name_of(value) in free
        )
        and not (inspect.isclass(value) and issubclass(value, BaseException))
        and (inspect.isclass(value) or inspect.signature(value).parameters)
    }
    assert not missing


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.function.__qualname__)
def test_the_table_has_every_argument(call: Call) -> None:
    assert set(call.kinds) >= arguments_of(call.function) - set(call.without)
    with contextlib.suppress(OSError):  # files: nothing is there
        run(call, call.valid())


@pytest.mark.parametrize(("call", "argument"), CASES)
def test_hostile_values(
    call: Call, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # where "x" is a folder
    wrong = []
    for name, make in HOSTILE.items():
        given = call.valid()
        given[argument] = make()
        before = [(tensor, tensor.detach().clone()) for tensor in tensors_in([*given.values()])
                  if not tensor.is_meta and tensor.layout == torch.strided]  # fmt: skip
        message = outcome(call, given)
        allowed = name in call.kinds[argument]
        if allowed and message is not None:
            wrong.append(f"{name}: refused, though it has a meaning: {message}")
        if not allowed and message is None:
            wrong.append(f"{name}: taken, with no meaning")
        if message is not None and not allowed:
            called = call.named.get(argument, argument)
            if not re.search(rf"(?<![A-Za-z_])({called})(?![A-Za-z_])", message):
                wrong.append(f"{name}: the argument is not named: {message}")
            elif found := _FOREIGN.search(message):
                wrong.append(f"{name}: {found.group()!r} in {message}")
            if not all(torch.equal(tensor.detach(), kept) for tensor, kept in before):
                wrong.append(f"{name}: tensors were changed")
    assert not wrong, "\n".join([f"{call.function.__qualname__}, {argument}", *wrong])


def outcome(call: Call, given: dict[str, Any]) -> str | None:
    """The message of the error; None: there is none."""
    try:
        run(call, given)
    except (OSError, BackendUnavailable) as error:
        return str(error) if isinstance(error, BackendUnavailable) else f"folder: {error}"
    except (TypeError, ValueError, RuntimeError) as error:
        return str(error)
    return None
