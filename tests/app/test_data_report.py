"""Count in, count out: shown before training, written down, and right."""

from __future__ import annotations

import csv
import json
import re

import pytest

from zokern.app.tasks import UserError, load_task
from zokern.app.tasks.counts import Place, SplitReport
from zokern.app.tasks.packaged import parse_movie_reviews, parse_reuters
from zokern.app.training import TrainOptions, run_training

from .data_files import labelled, written_csv, written_tsv
from .test_cli import refuses


def sums(report):
    """Rows read, and what they come to."""
    taken = ("dropped", "held out", "left over")
    return report.read, report.used + sum(f.count for f in report.findings.values() if f.what in taken)


@pytest.fixture
def folder(tmp_path):
    """40 rows to train on, of which 3 have no label and 2 repeat others; 12 to test, of which 1 has none and 2
    are trained on."""
    home = tmp_path / "data [bold] [/x] $a_{$"  # neither markup nor mathematics
    home.mkdir(parents=True)
    train = labelled([f"text {i}" for i in range(40)])
    train[5], train[17], train[39] = ("x", ""), ("y", " "), ("", "")
    train[20], train[21] = train[0], (train[1][0], "a")
    test = labelled([f"test {i}" for i in range(12)])
    test[3], test[4], test[5] = (test[3][0], ""), train[2], (train[3][0], "a")
    written_csv(home / "train.csv", train)
    written_tsv(home / "test.tsv", test)
    (home / "notes.txt").write_text("no data")
    return home


def words(family_folder, folder, *more):
    options = {"--task": folder, "--model": family_folder("gpt2"), "--label-words": "terrible,great"}
    flat = [part for pair in options.items() for part in pair]
    return ["train", *flat, "--answer", "It was", "--steps", 1, "--out", "out", *more]


def test_rows_in_and_out_are_shown_before_training_and_written_down(cli, tmp_path, folder, model_folder):
    result = cli(*words(model_folder, folder, "--train-size", 30, "--test-size", 8))
    assert result.exit_code == 0, result.output
    before = " ".join(result.stdout.split("testing before training")[0].split())
    for part in (
        *("train.csv (41 lines,", "train: 40 rows read, 30 used", "left over 7: beyond --train-size"),
        "dropped 3: no label in 'label' (train.csv line 7, train.csv line 19, train.csv line 41)",
        "noted 1: texts of an earlier row (train.csv line 22)",
        "noted 1: texts of an earlier row that has another label (train.csv line 23)",
        *("test.tsv (13 lines, tab-separated, no quoting", "test: 12 rows read, 8 used"),
        "dropped 1: no label in 'label' (test.tsv line 5)",
        "left over 3: beyond --test-size",
        "no data files: notes.txt",
        "2 classes: a (",
    ):
        assert part in before, part
    assert re.search(
        r"noted 2: texts that a training row has too \(test.tsv line [67], test.tsv line [67]\)", before
    )
    for name in ("config.json", "summary.json"):
        data = json.loads((tmp_path / "out" / name).read_text())["data"]
        assert (data["train"]["rows_read"], data["train"]["rows_used"]) == (40, 30)
        assert (data["test"]["rows_read"], data["test"]["rows_used"]) == (12, 8)
        dropped = [f for f in data["train"]["findings"] if f["what"] == "dropped"]
        assert dropped[0]["first"] == [f"train.csv line {line}" for line in (7, 19, 41)]
        assert sum(c["train"] for c in data["classes"]) == 30
        assert sum(c["test"] for c in data["classes"]) == 8


def test_a_run_goes_on_with_the_data_it_began_with(cli, folder, model_folder):
    assert cli(*words(model_folder, folder)).exit_code == 0
    assert cli("train", "--resume", "out").exit_code == 0
    text = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(text.replace("text 30", "text 99"))
    refuses(cli("train", "--resume", "out"), "data", "is not what the run in out was started with")
    (folder / "train.csv").write_text(text)
    assert cli("train", "--resume", "out").exit_code == 0


def test_every_row_is_accounted_for(folder):
    for sizes in ({}, {"train_size": 7}, {"test_size": 2}, {"train_size": 1000, "test_size": 1000}):
        task = load_task(str(folder), **sizes)
        for report, count, split in ((task.data.train, 40, task.train), (task.data.test, 12, task.test)):
            assert sums(report) == (count, count)
            assert report.used == len(split)
    (folder / "test.tsv").unlink()
    task = load_task(str(folder))
    assert sums(task.data.train) == (40, 40) and sums(task.data.test) == (3, 3)
    assert (task.data.train.used, task.data.test.used) == (34, 3)


def test_a_row_that_is_not_accounted_for_is_noticed():
    report = SplitReport("train", read=3, used=2)
    with pytest.raises(AssertionError, match="3 rows read, 2 used, 0 taken out"):
        report.check()
    report.add("noted", "odd", Place("x", "line", 1))
    with pytest.raises(AssertionError):
        report.check()
    report.add("dropped", "odd", Place("x", "line", 1))
    report.check()


def test_a_long_list_is_cut_with_its_total(tmp_path):
    rows = [(f"t{i}", "" if i % 2 else "ab"[i // 2 % 2]) for i in range(500)]
    task = load_task(str(written_csv(tmp_path / "data.csv", rows)))
    shown = next(line for line in task.data.lines() if "dropped" in line)
    first = ", ".join(f"data.csv line {line}" for line in (3, 5, 7, 9, 11))
    assert shown == f"train: dropped 250: no label in 'label' ({first} and 245 more)"
    written = next(f for f in task.data.as_dict()["train"]["findings"] if f["what"] == "dropped")
    assert (written["rows"], len(written["first"])) == (250, 100)


def test_several_files_are_one_split(tmp_path):
    names = {"train-a.csv": "a", "deep/train/b.csv": "b", "eval.csv": "c", "_train_2.tsv": "d"}
    for name, word in names.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        rows = labelled([f"{word}{i}" for i in range(3)])
        (written_tsv if name.endswith("tsv") else written_csv)(tmp_path / name, rows)
    (tmp_path / "other.csv").write_text("text,label\nx,y\n")
    (tmp_path / ".hidden.csv").write_text("x")
    task = load_task(str(tmp_path))
    assert sorted(e.fields["text"] for e in task.train) == [w + str(i) for w in "abd" for i in range(3)]
    assert sorted(e.fields["text"] for e in task.test) == ["c0", "c1", "c2"]
    assert "not used, for no split is in the name: other.csv" in task.data.notes


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train.csv", "train.csv.gz"], ["train.csv and train.csv.gz", "one table twice"]),
        (["train.csv", "train.jsonl"], ["train.csv and train.jsonl", "one table twice"]),
        (["train_test.csv"], ["train_test.csv", "several splits: train and test"]),
        (["test.csv", "data.csv"], ["no train split, only test", "data.csv"]),
        (["data.txt"], ["holds no data files", "data.txt", ".csv"]),
    ],
)
def test_a_folder_that_is_not_plain_is_named(cli, tmp_path, names, parts):
    (tmp_path / "data").mkdir()
    for name in names:
        (tmp_path / "data" / name).write_text("text,label\na,0\nb,1\n")
    refuses(cli("train", "--task", "./data"), *parts)


def test_options_of_other_data_are_refused(cli, tmp_path):
    refuses(cli("train", "--task", "digits", "--label-column", "x"), "--label-column", "task digits")
    refuses(cli("train", "--task", "digits", "--text-columns", "x"), "--text-columns", "task digits")
    written_csv(tmp_path / "data.csv", labelled(["a", "b"]))
    refuses(
        cli("train", "--task", "data.csv", "--task-config", "x"), "--task-config x", "data.csv is one file"
    )
    refuses(
        cli("compare", "--task", "./data.csv", "--label-column", "x"), "no label column 'x'", "--label-column"
    )


def test_compare_takes_the_same_data(cli, tmp_path, model_folder):
    with open(tmp_path / "data.csv", "w", newline="", encoding="cp1252") as file:
        csv.writer(file).writerows([["é", "kind"], *((f"ü{i}", "ab"[i % 2]) for i in range(30))])
    result = cli(
        *(
            "compare",
            "--task",
            "data.csv",
            "--model",
            model_folder("gpt2"),
            "--runs",
            "zero-shot",
            "--out",
            "out",
        ),
        *("--label-column", "kind", "--text-columns", "é", "--encoding", "cp1252", "--test-size", 3),
        *("--label-words", "terrible,great", "--answer", "It was"),
    )
    assert result.exit_code == 0, result.output
    assert "30 rows read" in result.stdout
    row = json.loads((tmp_path / "out" / "runs.jsonl").read_text())
    assert row["examples"] == 3


def test_rows_of_the_packaged_tasks_are_counted(tmp_path):
    path = tmp_path / "mr.tsv"
    lines = ["1\t2.5\tfine  film ", "2\t-0.4\tweak", "3\t0\tnothing", "4\t2.5\tfine film", "torn", "5\t1\t "]
    path.write_text("\r\n".join(lines), newline="")
    report = SplitReport("train")
    report.used = len(parse_movie_reviews(path, 2, report))
    assert sums(report) == (6, 6)
    said = " ".join(report.lines())
    for reason in (
        "rated neutral (mr.tsv line 3)",
        "text of an earlier row (mr.tsv line 4)",
        "no text (mr.tsv line 6)",
    ):
        assert reason in said
    path = tmp_path / "r8.tab"
    path.write_text("Category\tText\nd\tstring\nclass\t\nearn\tprofit rose \n\ttopicless\nno tab\n")
    report = SplitReport("train")
    report.used = len(parse_reuters(path, report))
    assert sums(report) == (3, 3)
    assert "no topic or no text (r8.tab line 5, r8.tab line 6)" in " ".join(report.lines())


def test_digits_need_no_report(tmp_path, quiet):
    run_training(TrainOptions(task="digits", steps=1, out=str(tmp_path / "out")), display=quiet)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["data"] is None


def test_names_that_cannot_be_printed_are_shown_in_one_line(tmp_path):
    rows = [{"te\ud83dxt": "t", "a\nb": f"u{i}", "label": ["x\ny", "z\udc00"][i % 2]} for i in range(4)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(tmp_path / "data.jsonl"), prompt="{a\nb}")
    said = task.data.lines()
    assert all(line.isprintable() and line.encode() for line in said)
    assert task.labels == ("x\ny", "z\ufffd")
    assert "text of te\ufffdxt, 'a\\nb'" in said and any("'x\\ny' (" in line for line in said)
    assert any("half a surrogate pair in 'label', now U+FFFD (data.jsonl line 2" in line for line in said)


def test_texts_that_are_not_ascii_have_one_checksum(tmp_path):
    rows = labelled(["Grüße", "日本"])
    sums_ = {load_task(str(written_csv(tmp_path / name, rows))).data.sha256 for name in ("a.csv", "b.csv")}
    assert len(sums_) == 1
    with pytest.raises(UserError, match="no file or folder"):
        load_task(str(tmp_path / "c.csv"))
