"""Tasks from `datasets`: a hub name, or a local folder or file, with a prompt template.

The templates of the known names are those of MeZO's prompted experiments (Malladi et al. 2023,
appendix E.2, after Gao et al. 2021) in this package's prompt / answer / word form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zokern.app.tasks.base import Example, TextTask, by_fixed_hash
from zokern.app.tasks.counts import DataReport, SplitReport
from zokern.app.tasks.errors import UserError
from zokern.app.tasks.labels import Classes, number_classes
from zokern.app.tasks.loading import Source
from zokern.app.tasks.rows import (
    Row,
    class_names,
    column_notes,
    drop_unlabelled,
    note_repeats,
    read_rows,
    text_columns,
)
from zokern.app.tasks.sources import open_source
from zokern.app.tasks.tables import DataError
from zokern.app.tasks.template import place_of

__all__ = ["HUB_TASKS", "HubTask", "hub_task"]


@dataclass(frozen=True)
class HubTask:
    """Where a data set lies and how it is asked.

    Args:
        path: hub id, local folder (csv, tsv, json, parquet or `save_to_disk`) or local file.
        config: the hub's configuration name.
        prompt: the question with `{column}` places; None: the text column, where there is one of them,
            or the one called "text".
        answer: what precedes the label word.
        words: label words in class order.
        label: the label's column.
    """

    path: str
    config: str | None = None
    prompt: str | None = None
    answer: str = "It was"
    words: tuple[str, ...] = ()
    label: str = "label"


_ENTAIL = "Given that {premise}\nCan we assume that: {hypothesis} Yes, No or Maybe?"
_ENTAIL_2 = "Given that {sentence1}\nCan we assume that: {sentence2} Yes or No?"

HUB_TASKS: dict[str, HubTask] = {
    "sst2": HubTask("stanfordnlp/sst2", None, "{sentence}", "It was", ("terrible", "great")),
    "sst5": HubTask("SetFit/sst5", None, "{text}", "It was", ("terrible", "bad", "okay", "good", "great")),
    "imdb": HubTask("stanfordnlp/imdb", None, "{text}", "It was", ("terrible", "great")),
    "rotten-tomatoes": HubTask(
        "cornell-movie-review-data/rotten_tomatoes",
        None,
        "{text}",
        "It was",
        ("terrible", "great"),
    ),
    "mnli": HubTask("nyu-mll/glue", "mnli", _ENTAIL, "Answer:", ("Yes", "Maybe", "No")),
    "snli": HubTask("stanfordnlp/snli", None, _ENTAIL, "Answer:", ("Yes", "Maybe", "No")),
    "rte": HubTask("nyu-mll/glue", "rte", _ENTAIL_2, "Answer:", ("Yes", "No")),
    "qnli": HubTask(
        "nyu-mll/glue",
        "qnli",
        "Does this answer the question? Yes or No?\nQuestion: {question}\nText: {sentence}",
        "Answer:",
        ("Yes", "No"),
    ),
    "cb": HubTask("aps/super_glue", "cb", _ENTAIL, "Answer:", ("Yes", "No", "Maybe")),
    "boolq": HubTask("aps/super_glue", "boolq", "{passage}\nQuestion: {question}?", "Answer:", ("No", "Yes")),
    "wic": HubTask(
        "aps/super_glue",
        "wic",
        'Does the word "{word}" have the same meaning in these two sentences? Yes or No?\n'
        "{sentence1}\n{sentence2}",
        "Answer:",
        ("No", "Yes"),
    ),
    "trec": HubTask(
        "CogComp/trec",
        None,
        "{text}",
        "This is about a",
        ("expression", "entity", "description", "human", "location", "number"),
        label="coarse_label",
    ),
    "ag-news": HubTask(
        "fancyzhx/ag_news", None, "{text}", "Topic:", ("World", "Sports", "Business", "Technology")
    ),
}


# The split that is tested on is the first of these that has a label.
_TEST_SPLITS = "test validation validation_matched dev valid val eval evaluation testing".split()


def hub_task(
    name: str, spec: HubTask, *, columns: Sequence[str] = (), encoding: str | None = None
) -> TextTask:
    """Builds a text task from local files or from a data set that `datasets` can load.

    The test set is the "test" split when it has labels, else "validation", else a fixed tenth of
    the training split chosen by hash. Its `data` says what became of every row.

    Args:
        name: how the task is called in messages and results.
        spec: where it lies and how it is asked.
        columns: text columns; by default every column of text except the label's, and those that the
            prompt names.
        encoding: of local csv, tsv and json files; None: utf-8, or by the byte-order mark.

    Raises:
        UserError: it cannot be loaded, or its columns do not fit.
    """
    try:
        source = open_source(name, spec.path, spec.config, encoding)
        if encoding is not None and not source.text:
            raise UserError(f"--encoding is for local csv, tsv and json files; {spec.path} has none.")
        return _build(name, spec, source, columns)
    except DataError as error:
        raise UserError(f"Could not load data set {spec.path}: {str(error).rstrip('.')}.") from None


def _build(name: str, spec: HubTask, source: Source, asked: Sequence[str]) -> TextTask:
    if "train" not in source.splits:
        more = f" ({'; '.join(source.notes)})" if source.notes else ""
        raise UserError(f"Data set {spec.path} has no train split, only {', '.join(source.splits)}{more}.")
    tables = source.splits["train"]()
    columns = text_columns(spec.path, tables, spec.label, asked, spec.prompt or place_of("text"))
    data = DataReport(SplitReport("train"), SplitReport("test"), list(columns), list(source.notes))
    data.notes += column_notes(tables)
    train = read_rows(tables, columns, spec.label, data.train)
    _refuse_class_count(name, spec, train)
    test = _test_rows(spec, source, columns, train, data)
    names = class_names(tables, spec.label)
    classes = number_classes([row.label for row in train], [row.label for row in test], names)
    _note(train, test, classes, data)
    train, test = _in_fixed_order(train), _in_fixed_order(test)
    if not test:
        held = max(1, len(train) // 10)
        test, train = train[:held], train[held:]
        data.train.add("held out", "to test on, a fixed tenth chosen by hash", count=held)
        data.test.sources, data.test.read = ["held out from train"], held
    data.train.used, data.test.used = len(train), len(test)
    _note_overlap(train, test, classes, data.test)
    return TextTask(
        name=name,
        labels=classes.names,
        source=f"{spec.path}{f' ({spec.config})' if spec.config else ''}, {len(train):,} examples",
        data=data,
        train=[Example(row.fields, classes.number(row.label)) for row in train],
        test=[Example(row.fields, classes.number(row.label)) for row in test],
        prompt=_prompt(spec, columns),
        answer=spec.answer,
        label_words=spec.words,
    )


def _prompt(spec: HubTask, columns: Sequence[str]) -> str:
    if spec.prompt is not None:
        return spec.prompt
    return place_of(columns[0] if len(columns) == 1 else "text")


def _refuse_class_count(name: str, spec: HubTask, train: Sequence[Row]) -> None:
    found = {row.label for row in train}
    if not 2 <= len(found) <= 1000:
        only = f" ({next(iter(found))})" if len(found) == 1 else ""
        raise UserError(
            f"Task {name}: column {spec.label!r} has {len(found)} different values{only} in the training rows; "
            "a classification task has 2 to 1000 classes."
        )


def _test_rows(
    spec: HubTask, source: Source, columns: Sequence[str], train: Sequence[Row], data: DataReport
) -> list[Row]:
    """The rows of the first test split that has labels, and its report; none where no split has any."""
    found: list[Row] = []
    unused = [split for split in source.splits if split != "train"]
    for split in _TEST_SPLITS:
        if split not in source.splits:
            continue
        report = SplitReport("test")
        tables = source.splits[split]()
        rows = read_rows(tables, columns, spec.label, report)
        rows = drop_unlabelled(rows, train, source.hub, report)
        unused.remove(split)
        if rows:
            data.test = report
            if split != "test":
                data.notes.append(f"tested on the split {split}")
            data.notes += [note for note in column_notes(tables) if note not in data.notes]
            found = rows
            break
        data.notes.append(f"the split {split} has no label in its {report.read:,} rows and is not used")
    if unused:
        data.notes.append(f"splits that are not used: {', '.join(unused)}")
    return found


def _in_fixed_order(rows: Sequence[Row]) -> list[Row]:
    return [rows[index] for index in by_fixed_hash(["\t".join(row.texts) for row in rows])]


def _note(train: Sequence[Row], test: Sequence[Row], classes: Classes, data: DataReport) -> None:
    """Notes rows that repeat others and labels that are not written as their class is."""
    for rows, report in ((train, data.train), (test, data.test)):
        note_repeats(rows, report)
        for row in rows:
            if classes.name(row.label) != row.label:
                report.add("changed", "label of an integer written with a point, as 1.0", row.place)


def _note_overlap(train: Sequence[Row], test: Sequence[Row], classes: Classes, report: SplitReport) -> None:
    """Notes test rows that are trained on, and those of classes that are not."""
    texts = {row.texts for row in train}
    known = {classes.name(row.label) for row in train}
    for row in test:
        if row.texts in texts:
            report.add("noted", "texts that a training row has too", row.place)
        if classes.name(row.label) not in known:
            report.add("noted", f"class {classes.name(row.label)!r}, which no training row has", row.place)
