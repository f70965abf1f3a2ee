"""Tasks from `datasets`: a hub name, or a local folder or file, with a prompt template.

The templates of the known names are those of MeZO's prompted experiments (Malladi et al. 2023,
appendix E.2, after Gao et al. 2021) in this package's prompt / answer / word form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zokern.app.tasks.base import Example, TextTask, by_fixed_hash
from zokern.app.tasks.errors import UserError

__all__ = ["HUB_TASKS", "HubTask", "hub_task"]


@dataclass(frozen=True)
class HubTask:
    """Where a data set lies and how it is asked.

    Args:
        path: hub id, local folder (csv, json lines, parquet or `save_to_disk`) or local file.
        config: the hub's configuration name.
        prompt: the question with `{column}` places.
        answer: what precedes the label word.
        words: label words in class order.
        label: the label's column.
    """

    path: str
    config: str | None = None
    prompt: str = "{text}"
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


def hub_task(
    name: str,
    spec: HubTask,
    *,
    columns: Sequence[str] = (),
) -> TextTask:
    """Builds a text task from a data set that `datasets` can load.

    The test set is the "test" split when it has labels, else "validation", else a fixed tenth of
    the training split chosen by hash. Rows with a negative label are dropped.

    Args:
        name: how the task is called in messages and results.
        spec: where it lies and how it is asked.
        columns: text columns; by default every column of strings except the label's.

    Raises:
        UserError: it cannot be loaded, or its columns do not fit.
    """
    data = _load(name, spec)
    if "train" not in data:
        raise UserError(f"Data set {spec.path} has no train split, only {', '.join(data)}.")
    labels, convert = _labels(name, spec, data["train"])
    chosen = tuple(columns) or tuple(
        column
        for column, feature in data["train"].features.items()
        if column != spec.label and "string" in str(getattr(feature, "dtype", ""))
    )
    missing = [column for column in chosen if column not in data["train"].column_names]
    if missing or not chosen:
        raise UserError(
            f"Data set {spec.path} has no text column {missing[0] if missing else ''}; its columns "
            f"are {', '.join(data['train'].column_names)}."
        )

    def rows(split: str) -> list[Example]:
        examples = []
        for row in data[split]:
            label = convert(row.get(spec.label))
            if label >= 0:
                fields = {column: str(row[column] or "") for column in chosen}
                examples.append(Example(fields, label))
        order = by_fixed_hash(["\t".join(example.fields.values()) for example in examples])
        return [examples[index] for index in order]

    train = rows("train")
    test: list[Example] = []
    for split in ("test", "validation", "validation_matched", "dev", "valid"):
        if not test and split in data:
            test = rows(split)
    if not test:
        held = max(1, len(train) // 10)
        test, train = train[:held], train[held:]
    return TextTask(
        name=name,
        labels=labels,
        source=f"{spec.path}{f' ({spec.config})' if spec.config else ''}, {len(train):,} examples",
        train=train,
        test=test,
        prompt=spec.prompt,
        answer=spec.answer,
        label_words=spec.words,
    )


def _load(name: str, spec: HubTask) -> Any:
    """A mapping split -> rows, from disk or the hub."""
    try:
        import datasets
        from huggingface_hub.utils import logging as hub_logging
    except ImportError:
        raise UserError(f"Task {name} needs the `datasets` package: pip install 'zokern[train]'.") from None
    datasets.disable_progress_bars()
    hub_logging.set_verbosity_error()  # or it narrates its retries
    path = Path(spec.path).expanduser()
    try:
        if path.is_file():
            kind = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}.get(path.suffix, "json")
            extra: dict[str, Any] = {"sep": "\t"} if path.suffix == ".tsv" else {}
            return datasets.load_dataset(kind, data_files=str(path), **extra)
        if (path / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path) if path.is_dir() else spec.path, spec.config)
    except Exception as error:  # the library raises its own types and the network's alike
        kinds = {type(e).__name__ for e in _chain(error)}
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        if kinds & _NETWORK_ERRORS or "couldn't reach" in str(error).lower():
            raise UserError(
                f"Could not reach the data-set hub for {spec.path}. Check the network, or give a "
                "local folder to --task."
            ) from None
        raise UserError(f"Could not load data set {spec.path}: {reason}.") from None


_NETWORK_ERRORS = {
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "ReadTimeout",
    "MaxRetryError",
    "NewConnectionError",
    "NameResolutionError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ProxyError",
    "gaierror",
}


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and all that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _labels(name: str, spec: HubTask, rows: Any) -> tuple[tuple[str, ...], Any]:
    """The class names, and a function from a row's label to its class number (-1: none)."""
    if spec.label not in rows.column_names:
        raise UserError(
            f"Data set {spec.path} has no label column {spec.label!r}; its columns are "
            f"{', '.join(rows.column_names)}. Name it with --label-column."
        )
    feature = rows.features[spec.label]
    if getattr(feature, "names", None):
        return tuple(feature.names), lambda label: -1 if label is None else int(label)
    values = sorted({value for value in rows[spec.label] if value is not None})
    if values and all(isinstance(value, bool) for value in values):
        values = [False, True]
    elif values and all(isinstance(value, int) for value in values):
        values = [value for value in values if value >= 0]
    if not 2 <= len(values) <= 1000:
        raise UserError(
            f"Task {name}: column {spec.label!r} has {len(values)} different values; "
            "a classification task has 2 to 1000 classes."
        )
    number = {value: index for index, value in enumerate(values)}
    return tuple(str(value) for value in values), lambda label: number.get(label, -1)
