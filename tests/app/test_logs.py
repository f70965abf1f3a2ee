"""Logs that survive a kill at any byte, atomic files, folders that are not overwritten."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch

from zokern.app.tasks import UserError
from zokern.app.training import checkpoint
from zokern.app.training.checkpoint import fingerprint, read_checkpoint, save_checkpoint
from zokern.app.training.folder import Folder, explained
from zokern.app.training.log import LineLog, decode_values, encode_values, read_steps


def test_values_survive_exactly():
    values = [0.1, -1e-310, 3.4028235e38, math.inf, 0.0, -0.0]
    decoded = decode_values(json.loads(json.dumps(encode_values(values))))
    assert [v.hex() for v in decoded] == [v.hex() for v in values]
    assert math.isnan(decode_values(encode_values([math.nan]))[0])


def test_every_line_is_on_disk_when_append_returns(tmp_path):
    log = LineLog(tmp_path / "log")
    log.append({"step": 1})
    assert (tmp_path / "log").read_text() == '{"step": 1}\n'


def test_a_file_cut_at_any_byte_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "log"
    log = LineLog(path)
    for step in range(1, 4):
        log.append({"step": step, "values": encode_values([step / 3])})
    log.close()
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        again = LineLog(path)
        whole = content[:cut].count(b"\n")
        assert list(read_steps(again)) == list(range(1, whole + 1))
        again.append({"step": whole + 1, "values": []})
        again.close()
        assert list(read_steps(LineLog(path))) == list(range(1, whole + 2))


def test_damage_before_the_end_is_an_error(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"step": 1, "values": []}\n{"st\n{"step": 3, "values": []}\n')
    with pytest.raises(UserError, match="damaged at line 2"):
        LineLog(path)


@pytest.mark.parametrize("line", ['{"step": 3, "values": []}', '{"step": 2}', '{"step": 2, "values": ["x"]}'])
def test_lines_that_are_no_next_step_are_errors(tmp_path, line):
    path = tmp_path / "log"
    path.write_text('{"step": 1, "values": []}\n' + line + "\n")
    with pytest.raises(UserError, match=r"jumps from step 1 to step 3|holds a line that is no step"):
        read_steps(LineLog(path))


def test_full_disk_while_logging_is_a_sentence(tmp_path):
    log = LineLog(tmp_path / "log")
    with (
        open("/dev/full", "ab", buffering=0) as log._file,
        pytest.raises(UserError, match="The disk is full: failed writing"),
    ):
        log.append({"step": 1})


def test_disk_that_fills_up_within_a_line_is_noticed(tmp_path):
    class NearlyFull:
        room = 5

        def write(self, content):
            if self.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.room = min(self.room, len(content)), 0
            return taken

    log = LineLog(tmp_path / "log")
    log._file = NearlyFull()
    with pytest.raises(UserError, match="The disk is full"):
        log.append({"step": 1})


class Stateful:
    """Stands for an optimizer where only its state matters."""

    def __init__(self, number=0):
        self.number = number

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).bfloat16())


def test_checkpoint_round_trip_is_exact(tmp_path, model):
    model[0].bias.requires_grad_(False)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_checkpoint(tmp_path, 5, model, Stateful(7))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    optimizer = Stateful()
    found = read_checkpoint(tmp_path)
    found.restore(model, optimizer)
    assert found.step == 5
    assert optimizer.number == 7
    for name, p in model.named_parameters():
        expected = torch.zeros_like(p) if name == "0.bias" else kept[name]
        assert torch.equal(p, expected), name


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", b"nonsense"])
def test_unreadable_checkpoint_counts_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    assert read_checkpoint(tmp_path) is None


def test_half_written_checkpoint_leaves_the_previous(tmp_path, model, monkeypatch):
    save_checkpoint(tmp_path, 1, model, Stateful())

    def fails(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fails)
    with pytest.raises(UserError, match="disk is full"):
        save_checkpoint(tmp_path, 2, model, Stateful())
    monkeypatch.undo()
    assert read_checkpoint(tmp_path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_checkpoint_of_another_model_is_refused(tmp_path, model):
    save_checkpoint(tmp_path, 1, model, Stateful())
    with pytest.raises(UserError, match="differs in"):
        read_checkpoint(tmp_path).restore(torch.nn.Linear(3, 2), Stateful())
    wider = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 2).bfloat16())
    with pytest.raises(UserError, match=r"0\.weight has another shape"):
        read_checkpoint(tmp_path).restore(wider, Stateful())


def test_fingerprint_tells_weights_apart(model):
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model[1].weight[0, 0] += 1
    assert fingerprint(model) != before


def test_folder_rules(tmp_path):
    Folder(tmp_path / "new" / "deep").claim(overwrite=False)
    assert (tmp_path / "new" / "deep").is_dir()

    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    for name in ("config.json", "steps.jsonl", "notes.txt"):
        (run / name).write_text("{}")
    with pytest.raises(UserError, match=r"already holds a run\. Continue it with --resume"):
        Folder(run).claim(overwrite=False)
    folder = Folder(run)
    folder.claim(overwrite=True)
    folder.lock.release()
    assert [p.name for p in run.iterdir()] == ["notes.txt"]  # what is not ours stays

    with pytest.raises(UserError, match="already holds other files"):
        Folder(run).claim(overwrite=False)
    with pytest.raises(UserError, match="--overwrite only replaces runs"):
        Folder(run).claim(overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        Folder(run / "notes.txt").claim(overwrite=True)


def test_weights_are_replaced_whole(tmp_path):
    folder = Folder(tmp_path)

    def save(name, fail=False):
        def writer(path):
            (path / name).write_text(name)
            if fail:
                raise OSError(errno.ENOSPC, "No space left on device")
            return [path / name]

        return writer

    assert folder.write_weights(save("one")) == [tmp_path / "weights" / "one"]
    with pytest.raises(UserError, match="disk is full"):
        folder.write_weights(save("two", fail=True))
    assert [p.name for p in (tmp_path / "weights").iterdir()] == ["one"]
    folder.write_weights(save("three"))
    assert [p.name for p in (tmp_path / "weights").iterdir()] == ["three"]
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_full_disk_in_other_libraries_words(tmp_path):
    with pytest.raises(UserError, match="disk is full"), explained("writing"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(ZeroDivisionError), explained("writing"):
        raise ZeroDivisionError
