"""Tasks: parsing, fixed splits, hub and local data, wording, metrics."""

from __future__ import annotations

import json

import pytest
import torch

from zokern.app.tasks import UserError, evaluate_logits, load_task
from zokern.app.tasks.base import by_fixed_hash, shorten
from zokern.app.tasks.hub import HUB_TASKS, HubTask, hub_task
from zokern.app.tasks.metrics import calibrated_predictions
from zokern.app.tasks.packaged import parse_movie_reviews, parse_reuters

from .conftest import WORDS, tiny_task


def test_movie_reviews_parse_drops_neutral_and_repeated(tmp_path):
    path = tmp_path / "mr.tsv"
    rows = ["1\t2.5\tfine  film ", "2\t-0.4\tweak", "3\t0\tnothing", "4\t2.5\tfine film", "torn"]
    path.write_text("\r\n".join(rows), newline="")
    two = parse_movie_reviews(path, 2)
    assert [(e.fields["text"], e.label) for e in two] == [("fine film", 1), ("weak", 0)]
    five = parse_movie_reviews(path, 5)
    assert [e.label for e in five] == [4, 2, 2]


def test_movie_review_quotes_are_text(tmp_path):
    path = tmp_path / "mr.tsv"
    path.write_text('1\t1.0\t"a quote that never ends\n2\t-1.0\tnext\n')
    assert len(parse_movie_reviews(path, 2)) == 2


def test_reuters_parse_skips_the_header(tmp_path):
    path = tmp_path / "r8.tab"
    path.write_text("Category\tText\nd\tstring\nclass\t\nearn\tprofit rose \n\ttopicless\n")
    assert parse_reuters(path) == [("earn", "profit rose")]


def test_fixed_hash_order_is_pinned():
    # Another order would silently give another test set.
    # sha256 of a .. e begins ca, 3e, 2e, 18, 3f.
    assert by_fixed_hash(["a", "b", "c", "d", "e"]) == [3, 2, 1, 4, 0]
    assert by_fixed_hash(["x", "x", "x"]) == [0, 1, 2]


def test_shorten():
    assert shorten(" one  two three ", 2) == "one two"
    assert shorten("one two", None) == "one two"


def test_local_folder_with_template(data_folder):
    task = load_task(str(data_folder), label_words=WORDS, answer="It was", test_size=10)
    assert (len(task.train), len(task.test), task.labels) == (48, 10, ("0", "1"))
    assert task.prompt == "{text}"


def test_local_data_is_the_same_from_every_kind_of_file(data_folder, tmp_path):
    import datasets

    whole = datasets.load_dataset(str(data_folder))
    whole.save_to_disk(str(tmp_path / "arrow"))
    (tmp_path / "json").mkdir()
    for split in ("train", "test"):
        lines = "\n".join(json.dumps(row) for row in whole[split])
        (tmp_path / "json" / f"{split}.jsonl").write_text(lines)
    csv_task = load_task(str(data_folder))
    for kind in ("arrow", "json"):
        task = load_task(str(tmp_path / kind))
        assert task.train == csv_task.train
        assert task.test == csv_task.test


def test_single_file_holds_out_a_fixed_tenth(data_folder):
    task = load_task(str(data_folder / "train.csv"))
    assert (len(task.train), len(task.test)) == (44, 4)
    assert load_task(str(data_folder / "train.csv")).test == task.test


def test_unlabelled_test_split_gives_way_to_validation(tmp_path):
    # GLUE publishes its test sets with label -1.
    for split, label in (("train", 1), ("validation", 0), ("test", -1)):
        rows = [{"sentence": f"{split} {i}", "label": label if i else abs(label)} for i in range(4)]
        if split == "test":
            rows = [{**row, "label": -1} for row in rows]
        if split == "train":
            rows[0]["label"] = 0
        (tmp_path / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = hub_task("glue-like", HubTask(str(tmp_path), None, "{sentence}", "It was", WORDS))
    assert task.labels == ("0", "1")
    assert all("validation" in e.fields["sentence"] for e in task.test)


def test_string_labels_are_numbered_in_order(tmp_path):
    rows = [{"text": f"t{i}", "label": ["spam", "ham"][i % 2]} for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = load_task(str(tmp_path))
    assert task.labels == ("ham", "spam")


def test_pair_columns_fill_the_template(tmp_path):
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": i % 2} for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = load_task(str(tmp_path), prompt="{premise} so {hypothesis}", label_words=("No", "Yes"))
    assert set(task.train[0].fields) == {"premise", "hypothesis"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_column": "nope"}, "no label column 'nope'"),
        ({"text_columns": ["nope"]}, "no text column nope"),
        ({"prompt": "{body}"}, r"asks for \{body\} but .* columns text"),
        ({"prompt": "no place"}, "has no place for the text"),
        ({"prompt": "{text"}, "is not a template"),
        ({"label_words": ["one"]}, r"2 classes \(0, 1\) but 1 label words"),
    ],
)
def test_wording_that_does_not_fit_is_named(data_folder, arguments, message):
    with pytest.raises(UserError, match=message):
        load_task(str(data_folder), **arguments)


def test_unknown_task_suggests_a_known_one():
    with pytest.raises(UserError, match=r"Unknown task 'reuter'\. Did you mean reuters"):
        load_task("reuter")


def test_unreachable_hub_is_a_sentence(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'x' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="Could not reach the data-set hub"):
        load_task("sst2")


def test_data_that_cannot_be_read_is_a_sentence(tmp_path):
    (tmp_path / "train.jsonl").write_text("{not json")
    with pytest.raises(UserError, match="Could not load data set"):
        load_task(str(tmp_path))


@pytest.mark.parametrize("name", HUB_TASKS)
def test_hub_templates_are_templates(name):
    spec = HUB_TASKS[name]
    import string

    assert [field for _, field, _, _ in string.Formatter().parse(spec.prompt) if field]
    assert len(set(spec.words)) == len(spec.words) >= 2


def test_empty_split_is_refused():
    with pytest.raises(UserError, match="0 training and"):
        tiny_task(train=[]).check()


def test_digits_split_is_fixed_and_disjoint():
    task = load_task("digits")
    assert (task.train_length, len(task.test_labels)) == (1437, 360)
    assert torch.equal(load_task("digits").test_x, task.test_x)
    assert float(task.train_x.min()) >= 0.0 and float(task.train_x.max()) == 1.0


def test_calibration_removes_a_constant_preference():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    score = torch.where(labels == 1, 1.0, -1.0) + 0.1 * torch.randn(200, generator=generator)
    logits = torch.stack([torch.zeros(200), score + 5.0], dim=1)  # prefers class 1 always
    result = evaluate_logits(logits, labels)
    assert result.accuracy == 0.5
    assert result.predicted == (0.0, 1.0)
    assert result.calibrated_accuracy == 1.0


def test_calibration_of_many_classes_removes_the_mean():
    labels = torch.arange(300) % 3
    logits = torch.nn.functional.one_hot(labels, 3).float() + torch.tensor([0.0, 0.0, 9.0])
    assert evaluate_logits(logits, labels).accuracy == pytest.approx(1 / 3)
    assert torch.equal(calibrated_predictions(logits), labels)


def test_evaluation_numbers():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    result = evaluate_logits(logits, torch.tensor([0, 1, 1, 0]))
    assert (result.accuracy, result.majority, result.examples) == (0.75, 0.5, 4)
    assert result.loss == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).item()
    )
