"""Damaged files of a run: a resumed run ends with the weights of the whole one, bit for bit, or with an error that
names the file; 0 silent differences, 0 tracebacks. Mutations are drawn from a fixed seed."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zokern.app.tasks import UserError
from zokern.app.training import METHODS, Stopped, TrainOptions, run_training

FILES = ("config.json", "steps.jsonl", "metrics.jsonl", "checkpoint.pt")
STEPS = 8
# method and the step at which a run of it is interrupted; checkpoints are after 3, 6 and 8
RUNS = {
    "finished": ("mezo", None),
    "interrupted": ("mezo", 7),
    "before-a-checkpoint": ("zo-adam", 2),
    "first-order": ("fo-adamw", 7),
    "other-seed": ("mezo", None),
}


def options_for(name: str, folder: Path) -> TrainOptions:
    method, _ = RUNS[name]
    more = {"num_queries": 1} if method != "fo-adamw" else {}
    return TrainOptions(
        task="digits",
        method=method,
        steps=STEPS,
        batch_size=8,
        train_size=64,
        test_size=10,
        eval_every=2,
        checkpoint_every=3,
        seed=2 if name == "other-seed" else 1,
        lr_schedule="constant",
        out=str(folder / name),
        **more,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(autouse=True, scope="module")
def _no_curve():
    """Drawing takes longer than these runs, and so does reading the same digits again."""
    from zokern.app.tasks import TASKS

    loaded = TASKS["digits"](None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)
        patch.setitem(TASKS, "digits", lambda progress: dataclasses.replace(loaded))
        yield


def silent():
    import io

    from rich.console import Console

    from zokern.app.training import Display

    return Display(console=Console(file=io.StringIO(), width=200))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """name -> (the folder of a finished or interrupted run, the weights of the whole run)."""
    made = {}
    for name, (method, at) in RUNS.items():
        root = tmp_path_factory.mktemp(name)
        run_training(options_for(name, root / "whole"), display=silent())
        expected = weights(root / "whole" / name)
        if at is None:
            made[name] = (root / "whole" / name, expected)
            continue
        real = METHODS[method]

        def step(optimizer, closures, progress, real=real, at=at):
            if progress.step == at:
                raise KeyboardInterrupt
            return real.step(optimizer, closures, progress)

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(METHODS, method, dataclasses.replace(real, step=step))
            with pytest.raises(Stopped):
                run_training(options_for(name, root / "cut"), display=silent())
        made[name] = (root / "cut" / name, expected)
    return made


# ---- mutations: (random, path, folder of another run) -> what was done


def flip_a_bit(draw, path, other):
    content = bytearray(path.read_bytes())
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at}"


def zero_a_block(draw, path, other):
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    content[at : at + 64] = bytes(len(content[at : at + 64]))
    path.write_bytes(content)
    return f"64 zeros at {at}"


def truncate(draw, path, other):
    content = path.read_bytes()
    keep = draw.randrange(len(content))
    path.write_bytes(content[:keep])
    return f"cut to {keep} of {len(content)}"


def truncate_at_a_line(draw, path, other):
    lines = path.read_bytes().splitlines(keepends=True)
    keep = draw.randrange(len(lines))
    path.write_bytes(b"".join(lines[:keep]))
    return f"cut to {keep} of {len(lines)} lines"


def insert_a_byte(draw, path, other):
    content = path.read_bytes()
    at, byte = draw.randrange(len(content)), bytes([draw.choice(b'0"{} \n\xff')])
    path.write_bytes(content[:at] + byte + content[at:])
    return f"{byte!r} at {at}"


def append_garbage(draw, path, other):
    with open(path, "ab") as file:
        file.write(draw.choice([b"{}\n", b"\n", b"null\n", b'{"step": 9}\n', b"\x00" * 40, b'{"a":']))
    return "garbage at the end"


def empty(draw, path, other):
    path.write_bytes(b"")
    return "emptied"


def delete(draw, path, other):
    path.unlink()
    return "deleted"


def _lines(change):
    def mutate(draw, path, other):
        lines = path.read_bytes().splitlines(keepends=True)
        at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
        change(lines, at, to)
        path.write_bytes(b"".join(lines))
        return f"{change.__name__}: lines {at + 1} and {to + 1} of {len(lines)}"

    return mutate


def line_deleted(lines, at, to):
    del lines[at]


def line_duplicated(lines, at, to):
    lines.insert(at, lines[at])


def line_repeated_elsewhere(lines, at, to):
    lines.insert(to, lines[at])


def lines_swapped(lines, at, to):
    lines[at], lines[to] = lines[to], lines[at]


def change_a_digit(draw, path, other):
    text = path.read_text()
    places = [match.start() for match in re.finditer(r"[0-9]", text)]
    at = draw.choice(places)
    digit = draw.choice([d for d in "0123456789" if d != text[at]])
    path.write_text(text[:at] + digit + text[at + 1 :])
    return f"digit {at} from {text[at]} to {digit}"


def change_an_option(draw, path, other):
    config = json.loads(path.read_text())
    name = draw.choice(sorted(name for name in config["options"] if name != "out"))
    value = config["options"][name]
    others = {
        bool: [not value],
        int: [value, 7],
        float: [0.007],
        str: ["x"],
        list: [["x"]],
        type(None): [3, "x"],
    }
    config["options"][name] = draw.choice(others[type(value)])
    if type(value) is int:
        config["options"][name] = value + draw.choice([1, 2, 5])
    path.write_text(json.dumps(config, indent=1) + "\n")
    return f"{name} from {value!r} to {config['options'][name]!r}"


def swap_with_another_file(draw, path, other):
    second = path.parent / draw.choice([name for name in FILES if name != path.name])
    if not second.exists():
        shutil.copy(path, second)
        return f"copied over {second.name}"
    one, two = path.read_bytes(), second.read_bytes()
    path.write_bytes(two), second.write_bytes(one)
    return f"swapped with {second.name}"


def take_another_runs(draw, path, other):
    shutil.copy(other / path.name, path)
    return f"that of {other.name}"


ANY = (
    flip_a_bit,
    flip_a_bit,
    flip_a_bit,
    zero_a_block,
    truncate,
    insert_a_byte,
    append_garbage,
    take_another_runs,
)
ONCE = (empty, delete, swap_with_another_file)
TEXT = (
    *map(_lines, (line_deleted, line_duplicated, line_repeated_elsewhere, lines_swapped)),
    change_a_digit,
    change_a_digit,
    truncate_at_a_line,
)


def mutations(name: str) -> list[tuple]:
    """(mutation, file) of a run."""
    found = [(mutation, file) for file in FILES for mutation in ANY * 2 + ONCE]
    found += [(mutation, file) for file in FILES[1:3] for mutation in TEXT * 2]
    found += [(change_a_digit, "config.json")] * 4 + [(change_an_option, "config.json")] * 16
    if name == "before-a-checkpoint":
        found = [(mutation, file) for mutation, file in found if file != "checkpoint.pt"]
    return found


def outcome(folder: Path, expected: dict[str, torch.Tensor]) -> str:
    """ "same", "named", or what is wrong with how a damaged run is resumed."""
    before = contents(folder)
    try:
        run_training(resume=folder, display=silent())
    except UserError as error:
        if not any(name in str(error) for name in FILES):
            return f"an error that names no file: {error}"
        left = contents(folder)
        return "named" if left == before else f"files were changed by: {error}"
    except Exception as error:
        return f"a traceback: {error!r}"
    return "same" if same(weights(folder), expected) else "other weights, in silence"


def test_no_mutation_is_silent(runs, tmp_path):
    draw = random.Random(20260101)
    seen: Counter[str] = Counter()
    wrong = []
    for name, (original, expected) in runs.items():
        if name == "other-seed":
            continue
        for number, (mutation, file) in enumerate(mutations(name)):
            folder = tmp_path / f"{name}-{number}"
            shutil.copytree(original, folder)
            other = runs[draw.choice([n for n in ("finished", "first-order", "other-seed") if n != name])][0]
            what = mutation(draw, folder / file, other)
            result = outcome(folder, expected)
            seen[result if result in ("same", "named") else "wrong"] += 1
            if result not in ("same", "named"):
                wrong.append(f"{name}, {file}, {what}: {result}")
            shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)
    assert sum(seen.values()) >= 300
    assert seen["named"] >= 80 and seen["same"] >= 80, seen
