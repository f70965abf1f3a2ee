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

from .conftest import as_version_1

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
    """name -> (the folder of a finished or interrupted run, that of the whole run)."""
    made = {}
    for name, (method, at) in RUNS.items():
        root = tmp_path_factory.mktemp(name)
        run_training(options_for(name, root / "whole"), display=silent())
        whole = root / "whole" / name
        if at is None:
            made[name] = (whole, whole)
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
        made[name] = (root / "cut" / name, whole)
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


def told(folder: Path) -> dict:
    """What the summary says of the run itself, and which rows metrics.jsonl has."""
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("steps", "before", "after", "forward_passes", "evaluations_by_epoch")
    return {**{name: summary[name] for name in names}, "rows": [(row["kind"], row["step"]) for row in rows]}


def outcome(folder: Path, whole: Path) -> str:
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
    if not same(weights(folder), weights(whole)):
        return "other weights, in silence"
    if "first-order" not in str(whole) and told(folder) != told(
        whole
    ):  # tests of those are lost with their rows
        return f"another summary, in silence: {told(folder)}"
    return "same"


def test_no_mutation_is_silent(runs, tmp_path):
    draw = random.Random(20260101)
    seen: Counter[str] = Counter()
    wrong = []
    for name, (original, whole) in runs.items():
        if name == "other-seed":
            continue
        for number, (mutation, file) in enumerate(mutations(name)):
            folder = tmp_path / f"{name}-{number}"
            shutil.copytree(original, folder)
            other = runs[draw.choice([n for n in ("finished", "first-order", "other-seed") if n != name])][0]
            what = mutation(draw, folder / file, other)
            result = outcome(folder, whole)
            seen[result if result in ("same", "named") else "wrong"] += 1
            if result not in ("same", "named"):
                wrong.append(f"{name}, {file}, {what}: {result}")
            shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)
    assert sum(seen.values()) >= 300
    assert seen["named"] >= 80 and seen["same"] >= 80, seen


def test_mutations_of_an_earlier_releases_run_end_in_no_traceback(runs, tmp_path):
    """Its files have no checksums: other weights cannot be excluded, tracebacks can."""
    draw = random.Random(7)
    original, _ = runs["interrupted"]
    wrong = []
    for number, (mutation, file) in enumerate(mutations("interrupted")):
        folder = tmp_path / str(number)
        shutil.copytree(original, folder)
        as_version_1(folder)
        what = mutation(draw, folder / file, runs["other-seed"][0])
        try:
            run_training(resume=folder, display=silent())
        except UserError:
            pass
        except Exception as error:
            wrong.append(f"{file}, {what}: {error!r}")
    assert not wrong, "\n".join(wrong)


# ---- what is said, and where


def resumed(folder: Path) -> str:
    """What a resumed run prints."""
    display = silent()
    run_training(resume=folder, display=display)
    return " ".join(display.console.file.getvalue().split())


@pytest.fixture
def interrupted(runs, tmp_path):
    original, whole = runs["interrupted"]
    shutil.copytree(original, tmp_path / "run")
    yield tmp_path / "run"
    if (tmp_path / "run" / "weights").exists():
        assert same(weights(tmp_path / "run"), weights(whole))


def edit(path: Path, change) -> None:
    lines = path.read_text().splitlines(keepends=True)
    change(lines)
    path.write_text("".join(lines))


@pytest.mark.parametrize("line", [1, 2, 5])
@pytest.mark.parametrize("change", ["changed", "removed", "swapped", "duplicated"])
def test_a_damaged_line_of_the_log_is_named(interrupted, line, change):
    def damage(lines):
        if change == "changed":
            lines[line - 1] = lines[line - 1].replace("0x1", "0x2", 1).replace("mezo", "mezp")
        elif change == "removed":
            del lines[line - 1]
        elif change == "swapped":
            lines[line - 1], lines[line] = lines[line], lines[line - 1]
        else:
            lines.insert(line, lines[line - 1])

    edit(interrupted / "steps.jsonl", damage)
    before = contents(interrupted)
    named = line + (change == "duplicated")
    with pytest.raises(UserError, match=rf"steps\.jsonl is damaged at line {named}: .*Nothing was changed"):
        run_training(resume=interrupted, display=silent())
    assert contents(interrupted) == before


def test_a_damaged_last_line_is_dropped_and_its_step_repeated(interrupted):
    edit(interrupted / "steps.jsonl", lambda lines: lines.append(lines[-1]))
    count = len((interrupted / "steps.jsonl").read_text().splitlines())
    assert f"steps.jsonl is damaged at line {count}" in resumed(interrupted)


def test_a_damaged_checkpoint_is_said_and_the_log_replayed(interrupted):
    path = interrupted / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    said = resumed(interrupted)
    assert "checkpoint.pt is damaged: its checksum is not that of its content. It is not used." in said
    assert "Resuming after step 7 of 8 (7 from the log, without forwards)" in said


def test_a_whole_checkpoint_of_another_run_is_not_used(interrupted, runs):
    shutil.copy(runs["other-seed"][0] / "checkpoint.pt", interrupted / "checkpoint.pt")
    assert "checkpoint.pt is of step 8 of another log" in resumed(interrupted)


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(TrainOptions) if field.name != "out"]
)
def test_a_changed_option_is_named(interrupted, name):
    path = interrupted / "config.json"
    config = json.loads(path.read_text())
    config["options"][name] = "another"
    path.write_text(json.dumps(config))
    flag = "--" + name.replace("_", "-")
    with pytest.raises(
        UserError, match=rf'config\.json is not the one .* {flag} is "another", and the run was'
    ):
        run_training(resume=interrupted, display=silent())


@pytest.mark.parametrize("name", ["fingerprint", "versions", "data", "format"])
def test_the_rest_of_the_config_is_sealed_too(interrupted, name):
    path = interrupted / "config.json"
    config = json.loads(path.read_text())
    config[name] = "another"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json is "):
        run_training(resume=interrupted, display=silent())


def test_rows_that_metrics_lack_are_made_again(interrupted):
    edit(interrupted / "metrics.jsonl", lambda lines: lines.__setitem__(3, lines[3].replace("0", "1")))
    said = resumed(interrupted)
    assert "metrics.jsonl is damaged at line 4: its checksum does not fit." in said
    assert "lacks rows from step 2 on; they are made again" in said


def test_more_steps_are_sealed_too(runs, tmp_path):
    """Killed between the log's line of the new number and config.json, and changed behind its back."""
    folder = tmp_path / "run"
    shutil.copytree(runs["finished"][0], folder)
    old = (folder / "config.json").read_bytes()
    run_training(resume=folder, steps=10, display=silent())
    (folder / "config.json").write_bytes(old)
    run_training(resume=folder, display=silent())
    assert json.loads((folder / "config.json").read_text())["options"]["steps"] == 10
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"steps": 10', '"steps": 11'))
    with pytest.raises(UserError, match="--steps is 11, and the run was begun with 10"):
        run_training(resume=folder, display=silent())
    whole = tmp_path / "whole"
    run_training(dataclasses.replace(options_for("finished", whole), steps=10), display=silent())
    assert same(weights(folder), weights(whole / "finished"))


def test_a_run_of_an_earlier_release_is_resumed_to_the_same_weights(interrupted):
    as_version_1(interrupted)
    resumed(interrupted)


def test_a_later_format_is_refused(interrupted):
    path = interrupted / "config.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(UserError, match="is of format 3, and this version of zokern knows those up to 2"):
        run_training(resume=interrupted, display=silent())
