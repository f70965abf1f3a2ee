"""What the `datasets` library loads: the hub, folders of `save_to_disk`, README.md files in the hub's form.

Text files of the hub are read by the same readers as local ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zokern.app.tasks.errors import UserError
from zokern.app.tasks.files import arrow_table, read_table
from zokern.app.tasks.tables import DataError, Table, clean_name

__all__ = ["Source", "call", "declared_kind", "of_hub", "of_loaded", "the_library", "with_classes"]


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


def of_hub(name: str, path: str, config: str | None) -> Source:
    """A data set of the hub. Where it is text, its files are read again: `datasets` reads NA as a missing
    value, 007 as 7, a date as a time, and fails at a lone quote in a tsv file."""
    datasets = the_library(name)
    source, failure = Source({}), None
    try:
        data = call(datasets.load_dataset, name, path, path, config)
        source = of_loaded(data)
        kinds = {getattr(getattr(r, "info", None), "builder_name", None) for r in _mapping(data).values()}
    except DataError as error:
        failure, kinds = error, {"csv", "json"}
    if kinds <= {"csv", "json"}:
        builder = call(datasets.load_dataset_builder, name, path, path, config)
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
            kind = "json" if type(builder.config).__name__ == "JsonConfig" else declared_kind(builder)
            tables = [read_table(path, name, encoding, kind) for path, name in zip(paths, names)]
        except DataError as error:
            if loaded is None:
                raise
            tables = loaded()
            tables[0].how += f", as `datasets` reads them, NA and null as missing values, for: {error}"
            return tables
        return [with_classes(table, builder.info.features) for table in tables]

    return read


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {"train": data}


def of_loaded(data: Any) -> Source:
    """A `datasets.DatasetDict`, or a `datasets.Dataset` as its train split."""
    data = _mapping(data)

    def reader(split: str) -> Callable[[], list[Table]]:
        return lambda: [_table_of(data[split], str(split))]

    return Source({str(split): reader(split) for split in data})


def _table_of(rows: Any, split: str) -> Table:
    """A `datasets.Dataset` as a table; a selection or shuffle of it is followed."""
    flat = rows.flatten_indices() if getattr(rows, "_indices", None) is not None else rows
    return arrow_table(flat.data.table, split, f"{len(rows):,} rows", flat.features)


def the_library(name: str) -> Any:
    try:
        import datasets
        from huggingface_hub.utils import logging as hub_logging
    except ImportError:
        raise UserError(f"Task {name} needs the `datasets` package: pip install 'zokern[train]'.") from None
    datasets.disable_progress_bars()
    hub_logging.set_verbosity_error()  # or it narrates its retries
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said once, by `call`
    return datasets


def call(function: Callable[..., Any], name: str, path: str, *arguments: Any) -> Any:
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


def declared_kind(builder: Any) -> str | None:
    """The kind of a builder's files where their names do not say it.

    Raises:
        DataError: cells are separated by something else than commas and tabs.
    """
    separator = getattr(builder.config, "sep", None)
    if separator not in (None, ",", "\t"):
        raise DataError(f"its cells are separated by {separator!r}; csv has commas and tsv tabs")
    return {None: None, ",": "csv", "\t": "tsv"}[separator]


def with_classes(table: Table, features: Any) -> Table:
    """A table with the class names that a data set's card declares."""
    for index, column in enumerate(table.names):
        names = getattr((features or {}).get(clean_name(column)), "names", None)
        if isinstance(names, (list, tuple)) and names:
            table.classes[index] = tuple(map(str, names))
    return table
