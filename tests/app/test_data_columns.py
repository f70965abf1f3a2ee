"""Columns and prompts: any name, and the text it stands for."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest

from zokern.app.models.prompted import PromptedClassifier
from zokern.app.tasks import Example, UserError, load_task
from zokern.app.tasks.template import columns_named, fill

from .conftest import WORDS, tiny_task
from .test_cli import refuses

ODD = [
    *(
        "my text",
        "text.body",
        "text[0]",
        "a:b",
        "a!r",
        "{text}",
        "a}b",
        "a{b",
        "}",
        "0",
        "ä ö",
        "文",
        "a-b",
        "x,y",
    ),
    *("a'b", 'say "so"', "two\nlines", "a\\b", "%s", "$x", "__class__", "text{", "{}", "tab\tname"),
]


def written(path, header, rows, **dialect):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **dialect).writerows([header, *rows])
    return str(path)


def prompts(task):
    """The prompt of each example, as the models see it, by the one function that makes it."""
    model = PromptedClassifier.__new__(PromptedClassifier)
    model.__dict__.update(prompt=task.prompt)
    return Counter(model._question(example, None) for example in [*task.train, *task.test])


@pytest.mark.parametrize("name", ODD)
def test_a_column_may_have_any_name(tmp_path, name):
    texts = [f"t{i}" for i in range(4)]
    rows = [[f"o{i}", text, i % 2] for i, text in enumerate(texts)]
    path = written(tmp_path / "data.csv", ["other", name, "label"], rows)
    asked = load_task(path, text_columns=[name])
    assert asked.prompt == "{" + name + "}"
    assert prompts(asked) == Counter(texts)
    prompt = "{{ say: {" + name + "} }} {other}"
    assert prompts(load_task(path, prompt=prompt)) == Counter(f"{{ say: t{i} }} o{i}" for i in range(4))


@pytest.mark.parametrize("name", ODD)
def test_a_label_column_may_have_any_name(tmp_path, name):
    path = written(tmp_path / "data.csv", ["text", name], [[f"t{i}", i % 2] for i in range(4)])
    task = load_task(path, label_column=name)
    assert Counter(task.labels[e.label] for e in [*task.train, *task.test]) == {"0": 2, "1": 2}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_blanks_and_marks_around_names_are_not_of_the_names(tmp_path, kind, mark):
    rows = [[f"t{i}", i % 2] for i in range(4)]
    path = tmp_path / f"data.{kind}"
    if kind == "csv":
        written(path, [" text", "label "], rows)
    else:
        path.write_text("\n".join(json.dumps({" text": text, "label ": label}) for text, label in rows))
    path.write_text(mark + path.read_text())
    for asked in ({}, {"text_columns": ["text"], "label_column": "label"}, {"label_column": "label "}):
        task = load_task(str(path), **asked)
        assert prompts(task) == Counter(text for text, _ in rows)
        assert f"data.{kind}: column 'label ' is read as 'label'" in task.data.lines()


def test_values_with_braces_are_text(tmp_path):
    texts = ["{text}", "{{", "}", "{0}", "{label}"]
    path = written(tmp_path / "data.csv", ["text", "label"], [[t, i % 2] for i, t in enumerate(texts)])
    assert prompts(load_task(path, prompt="so: {text}")) == Counter(f"so: {text}" for text in texts)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{a}", "1"),
        ("{{a}}", "{a}"),
        ("{{{a}}}", "{1}"),
        ("{a}b}", "2"),
        ("{ a }", "1"),
        ("}}{{{a}", "}{1"),
    ],
)
def test_templates(template, filled):
    fields = {"a": "1", "a}b": "2"}
    assert fill(template, fields) == filled
    assert len(columns_named(template, list(fields))) == (filled != "{a}")


@pytest.mark.parametrize("prompt", ["{text", "text}", "{text}}", "{{text}", "{", "}"])
def test_a_brace_without_a_partner_is_named(prompt):
    with pytest.raises(UserError, match=r"is not a template: the '[{}]' at character"):
        tiny_task(prompt=prompt).check()


@pytest.mark.parametrize("name", ["", "0", "text!r", "text:>9", "text.upper", "text[0]", "label"])
def test_a_place_for_no_column_is_named(name):
    with pytest.raises(UserError, match=r"The prompt asks for .* but task tiny has the columns text"):
        tiny_task(prompt="{text} {" + name + "}").check()


def test_columns_of_numbers_are_text_only_when_asked_for(tmp_path):
    header, rows = ["id", "score", "title", "body", "label"], []
    for i in range(6):
        rows.append([i, f"{i / 4}", f"title {i}" if i else "12", "" if i else "NA", i % 2])
    path = written(tmp_path / "data.csv", header, rows)
    assert list(load_task(path).train[0].fields) == ["title"]
    assert list(load_task(path, prompt="{body} {title}").train[0].fields) == ["title", "body"]
    both = load_task(path, text_columns=["score", "id"], prompt="{score} {id}")
    assert prompts(both) == Counter(f"{row[1]} {row[0]}" for row in rows)
    only = written(tmp_path / "numbers.csv", ["code", "label"], [["007", "a"], ["1e5", "b"], ["0", "a"]])
    assert prompts(load_task(only)) == Counter(["007", "1e5", "0"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--text-columns", "body"], ["no text column body", "text, label"]),
        (["--text-columns", "label"], ["--text-columns names label", "label's column"]),
        (["--label-column", "[bold]"], ["no label column '[bold]'", "text, label"]),
        (["--prompt", "{body}"], ["asks for {body}", "columns text"]),
        (["--prompt", "{label}"], ["asks for {label}", "columns text"]),
    ],
)
def test_columns_that_are_not_there_are_named(cli, tmp_path, arguments, parts):
    written(tmp_path / "data.csv", ["text", "label"], [["a", 0], ["b", 1]])
    refuses(cli("train", "--task", "data.csv", *arguments), *parts)


def test_a_column_that_the_test_file_lacks_is_named(cli, tmp_path):
    written(tmp_path / "train.csv", ["text", "label"], [["a", 0], ["b", 1]])
    written(tmp_path / "test.csv", ["body", "label"], [["a", 0]])
    refuses(cli("train", "--task", "."), "test.csv has no column 'text'", "body, label")


def test_a_comma_in_a_name_is_written_in_quotes(cli, tmp_path, model_folder):
    header = ["a, b", 'say "so"', "label"]
    written(tmp_path / "data.csv", header, [[f"t{i}", f"u{i}", i % 2] for i in range(20)])
    result = cli(
        "train",
        *(
            "--task",
            "data.csv",
            "--model",
            model_folder("gpt2"),
            "--label-words",
            ",".join(WORDS),
            "--steps",
            1,
        ),
        *("--text-columns", '"a, b"', "--out", "out", "--answer", "It was"),
    )
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["data"]["text_columns"] == ["a, b"]


@pytest.mark.parametrize("family", ["gpt2", "distilbert"])
def test_a_head_takes_an_empty_text(family, model_folder):
    import transformers

    from zokern.app.models.heads import HeadClassifier

    path = model_folder(family)
    lm = transformers.AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    model = HeadClassifier(lm, transformers.AutoTokenizer.from_pretrained(path))
    task = tiny_task(train=[Example({"text": ""}, 0), Example({"text": " "}, 1)])
    for indices in ([0], [0, 1]):
        batch, _ = model.collate(task, "train", indices)
        assert model(batch).isfinite().all()
        assert model.features(batch).isfinite().all()
