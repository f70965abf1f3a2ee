"""Where a data set's tables come from: a file, a folder, a folder of `save_to_disk`, or the hub.

In a folder every data file belongs to a split, by a word in its name or else in its folders' names:
train, training; validation, valid, dev, val; test, testing, eval, evaluation. Files as the hub names
them, NAME-00000-of-00004, belong to the split NAME. Where no name says anything, all are for training.
A README.md in the hub's form, with `configs` or `dataset_info`, is followed as the hub follows it. Text files
of the hub are read by the same readers as local ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zokern.app.tasks.counts import named
from zokern.app.tasks.errors import UserError, explain_os_error
from zokern.app.tasks.files import KINDS, arrow_table, kind_of, read_table
from zokern.app.tasks.tables import DataError, Table, clean_name

__all__ = ["Source", "open_source"]

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}")


@dataclass
class Source:
    """A data set before it is read.

    Args:
        splits: name -> what reads its tables.
        hub: it came from the hub, where a label below 0 means "no label".
        text: some of it is text files, which have an encoding.
        notes: sentences on what is left out of it.
    """

    splits: Mapping[str, Callable[[], list[Table]]]
    hub: bool = False
    text: bool = False
    notes: list[str] = field(default_factory=list)


def open_source(name: str, path: str, config: str | None, encoding: str | None) -> Source:
    """The splits of a data set.

    Args:
        name: of the task, for messages.
        path: a hub id, a local folder or a local file.
        config: the hub's configuration name.
        encoding: of text files.

    Raises:
        UserError: there is nothing of that name, or it cannot be reached.
    """
    local = Path(path).expanduser()
    if local.is_file():
        if config is not None:
            raise UserError(
                f"--task-config {config} is for data with configurations, and {path} is one file."
            )
        return _of_file(local, encoding)
    if local.is_dir():
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            return _of_loaded(_call(_datasets(name).load_from_disk, name, path, str(local)))
        return _of_folder(name, local, config, encoding)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path) or kind_of(local) is not None:
        raise UserError(f"There is no file or folder {path}.")
    return _of_hub(name, path, config)


# ---- local files


def _of_file(path: Path, encoding: str | None) -> Source:
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path} is no data file; {_known()}.")
    return Source({"train": lambda: [read_table(path, path.name, encoding)]}, text=kind != "parquet")


def _known() -> str:
    return f"those end in {', '.join(KINDS)} (text also in .gz, .bz2 or .xz behind that)"


def _of_folder(name: str, folder: Path, config: str | None, encoding: str | None) -> Source:
    if _has_card(folder):
        return _of_card(name, folder, config, encoding)
    if config is not None:
        raise UserError(f"--task-config {config}: {folder} has no README.md with configurations.")
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    except OSError as error:
        raise explain_os_error(error, f"reading {folder}") from None
    data = [path for path in files if kind_of(path) is not None]
    others = [path.relative_to(folder).as_posix() for path in files if kind_of(path) is None]
    if not data:
        there = f" (there is {named(others, len(others))})" if others else ""
        raise UserError(f"{folder} holds no data files{there}; {_known()}.")
    splits = _split(folder, data)
    notes = [f"no data files: {named(others, len(others))}"] if others else []
    if None in splits:
        without = [path.relative_to(folder).as_posix() for path in splits.pop(None)]
        if splits:
            notes.append(f"not used, for no split is in the name: {named(without, len(without))}")
        else:
            splits = {"train": data}

    def reader(paths: Sequence[Path]) -> Callable[[], list[Table]]:
        return lambda: [read_table(path, path.relative_to(folder).as_posix(), encoding) for path in paths]

    text = any(kind_of(path) != "parquet" for path in data)
    found = {split: reader(paths) for split, paths in splits.items() if split is not None}
    return Source(found, text=text, notes=notes)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


def _split(folder: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Split -> its files; None for the files that name none."""
    splits: dict[str | None, list[Path]] = {}
    stems: dict[tuple[Path, str], Path] = {}
    for path in files:
        stem = path.name
        while Path(stem).suffix.lower() in (*KINDS, ".gz", ".bz2", ".xz"):
            stem = Path(stem).stem
        other = stems.setdefault((path.parent, stem), path)
        if other is not path:
            raise UserError(
                f"{folder} holds {other.name} and {path.name}, which look like one table twice; leave one there."
            )
        parts = [stem, *reversed(path.relative_to(folder).parts[:-1])]
        splits.setdefault(_split_of(path, parts), []).append(path)
    return splits


def _split_of(path: Path, parts: Sequence[str]) -> str | None:
    if shard := _SHARD.fullmatch(parts[0]):
        return shard[1]
    for part in parts:
        words = set(re.split(r"[-._ 0-9]+", part.lower()))
        found = [split for split, own in _WORDS.items() if words & set(own)]
        if len(found) > 1:
            raise UserError(f"The name of {path} is of several splits: {' and '.join(found)}; rename it.")
        if found:
            return found[0]
    return None


def _has_card(folder: Path) -> bool:
    """Whether a README.md says which files are which split, or what their columns are."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8").split("\n---", 1)[0]
    except (OSError, UnicodeDecodeError):
        return False
    return head.startswith("---") and bool(re.search(r"^(configs|dataset_info):", head, re.MULTILINE))


def _of_card(name: str, folder: Path, config: str | None, encoding: str | None) -> Source:
    """A folder with a README.md in the hub's form."""
    builder = _call(_datasets(name).load_dataset_builder, name, str(folder), str(folder), config)
    files = {str(split): [Path(path) for path in paths] for split, paths in builder.config.data_files.items()}
    root = folder.resolve()
    for path in (path for paths in files.values() for path in paths):
        if kind_of(path) is None:
            raise UserError(f"{path} is no data file; {_known()}.")

    def read(path: Path) -> Table:
        shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        chosen = encoding or getattr(builder.config, "encoding", None)
        kind = None if kind_of(path) in ("tsv", "json") else _declared_kind(builder)
        return _with_classes(read_table(path, shown, chosen, kind), builder.info.features)

    def reader(paths: Sequence[Path]) -> Callable[[], list[Table]]:
        return lambda: [read(path) for path in paths]

    text = any(kind_of(path) != "parquet" for paths in files.values() for path in paths)
    return Source({split: reader(paths) for split, paths in files.items()}, text=text)


def _declared_kind(builder: Any) -> str | None:
    """The kind of a builder's files where their names do not say it.

    Raises:
        DataError: cells are separated by something else than commas and tabs.
    """
    separator = getattr(builder.config, "sep", None)
    if separator not in (None, ",", "\t"):
        raise DataError(f"its cells are separated by {separator!r}; csv has commas and tsv tabs")
    return {None: None, ",": "csv", "\t": "tsv"}[separator]


def _with_classes(table: Table, features: Any) -> Table:
    """A table with the class names that a data set's card declares."""
    for index, column in enumerate(table.names):
        names = getattr((features or {}).get(clean_name(column)), "names", None)
        if isinstance(names, (list, tuple)) and names:
            table.classes[index] = tuple(names)
    return table


# ---- what `datasets` loads


def _of_hub(name: str, path: str, config: str | None) -> Source:
    """A data set of the hub. Where it is text, its files are read again: `datasets` reads NA as a missing
    value, 007 as 7, a date as a time, and fails at a lone quote in a tsv file."""
    datasets = _datasets(name)
    source, failure = Source({}), None
    try:
        data = _call(datasets.load_dataset, name, path, path, config)
        source = _of_loaded(data)
        kinds = {getattr(getattr(r, "info", None), "builder_name", None) for r in _mapping(data).values()}
    except DataError as error:
        failure, kinds = error, {"csv", "json"}
    if kinds <= {"csv", "json"}:
        builder = _call(datasets.load_dataset_builder, name, path, path, config)
        files = {str(split): list(urls) for split, urls in (builder.config.data_files or {}).items()}
        text = type(builder.config).__name__ in ("CsvConfig", "JsonConfig")
        if (
            text
            and getattr(builder.config, "field", None) is None
            and (failure or {*files} == {*source.splits})
        ):
            fetch = datasets.DownloadManager().download
            source.splits = {
                split: _rereader(builder, fetch, urls, source.splits.get(split))
                for split, urls in files.items()
            }
            failure = None
    if failure is not None:
        raise failure
    source.hub = True
    return source


def _rereader(
    builder: Any, fetch: Callable[..., Any], urls: Sequence[str], loaded: Callable[[], list[Table]] | None
) -> Callable[[], list[Table]]:
    """Reads the text files of a split from the hub; where one is not in order, what was loaded of them."""
    encoding = getattr(builder.config, "encoding", None)

    def read() -> list[Table]:
        paths = [Path(path) for path in fetch(list(urls))]
        names = [url.rsplit("/", 1)[-1] for url in urls]
        try:
            kind = "json" if type(builder.config).__name__ == "JsonConfig" else _declared_kind(builder)
            tables = [read_table(path, name, encoding, kind) for path, name in zip(paths, names)]
        except DataError as error:
            if loaded is None:
                raise
            tables = loaded()
            tables[0].how += f", as `datasets` reads them, NA and null as missing values, for: {error}"
            return tables
        return [_with_classes(table, builder.info.features) for table in tables]

    return read


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {"train": data}


def _of_loaded(data: Any) -> Source:
    """A `datasets.DatasetDict`, or a `datasets.Dataset` as its train split."""
    data = _mapping(data)

    def reader(split: str) -> Callable[[], list[Table]]:
        return lambda: [_table_of(data[split], str(split))]

    return Source({str(split): reader(split) for split in data})


def _table_of(rows: Any, split: str) -> Table:
    """A `datasets.Dataset` as a table; a selection or shuffle of it is followed."""
    flat = rows.flatten_indices() if getattr(rows, "_indices", None) is not None else rows
    return arrow_table(flat.data.table, split, f"{len(rows):,} rows", flat.features)


def _datasets(name: str) -> Any:
    try:
        import datasets
        from huggingface_hub.utils import logging as hub_logging
    except ImportError:
        raise UserError(f"Task {name} needs the `datasets` package: pip install 'zokern[train]'.") from None
    datasets.disable_progress_bars()
    hub_logging.set_verbosity_error()  # or it narrates its retries
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said once, by `_call`
    return datasets


def _call(function: Callable[..., Any], name: str, path: str, *arguments: Any) -> Any:
    """Calls a function of `datasets`; what goes wrong becomes a sentence."""
    try:
        return function(*arguments)
    except Exception as error:  # the library raises its own types and the network's alike
        kinds = {type(e).__name__ for e in _chain(error)}
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]
        if kinds & _NETWORK_ERRORS or "couldn't reach" in str(error).lower():
            raise UserError(
                f"Could not reach the data-set hub for {path}. Check the network, or give a "
                "local folder to --task."
            ) from None
        raise DataError(reason) from None


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
