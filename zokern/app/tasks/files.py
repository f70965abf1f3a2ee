"""From a file to a table: which format, which encoding, which compression.

    .csv .tsv .tab .json .jsonl .ndjson .parquet        also .gz, .bz2, .xz of the text formats

Text is utf-8, or what its byte-order mark says, or what --encoding says. Bytes that are no text in that
encoding are an error; nothing is guessed.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zokern.app.tasks.delimited import count_lines, read_delimited
from zokern.app.tasks.errors import explain_os_error
from zokern.app.tasks.json_rows import read_json
from zokern.app.tasks.tables import DataError, Table

__all__ = ["KINDS", "arrow_table", "kind_of", "read_table"]

KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_OPENERS: dict[str, Any] = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
# utf-32 before utf-16, whose little-endian mark it begins with
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def kind_of(path: Path) -> str | None:
    """ "csv", "tsv", "json" or "parquet" by the end of a file's name; None: no format for data."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _OPENERS:
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if kind == "parquet" else kind
    return KINDS.get(suffixes[-1]) if suffixes else None


def read_table(path: Path, name: str, encoding: str | None, kind: str | None = None) -> Table:
    """Reads a file whole.

    Args:
        path: where it is.
        name: what messages and reports call it; its end says how it is packed.
        encoding: of its text; None: utf-8, or by its byte-order mark.
        kind: of its format; None: by its name.

    Raises:
        DataError: it is not what its name says.
        UserError: it cannot be opened.
    """
    kind = kind or kind_of(path)
    if kind == "parquet":
        return _parquet(path, name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from None
    packed = Path(name).suffix.lower()
    if packed in _OPENERS:
        try:
            content = _OPENERS[packed](content)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise DataError(f"{name} cannot be unpacked: {error}.") from None
    text, how = _decode(content, name, encoding)
    if kind == "json":
        return read_json(text, name, how)
    return read_delimited(text, name, kind == "tsv", how)


def _decode(content: bytes, name: str, encoding: str | None) -> tuple[str, str]:
    """The text of a file, and how it was decoded."""
    mark, marked = next(((m, e) for m, e in _MARKS if content.startswith(m)), (b"", ""))
    chosen = encoding or marked or "utf-8"
    try:
        family = codecs.lookup(chosen).name.removesuffix("-sig").removesuffix("-le").removesuffix("-be")
        # "utf-16" reads the mark and takes it off; the others are given what stands behind it
        text = (
            content.decode(chosen) if family in ("utf-16", "utf-32") else content[len(mark) :].decode(chosen)
        )
    except UnicodeDecodeError as error:
        at = error.start + (0 if error.object is content else len(mark))
        line = count_lines(content[:at].decode("latin-1") + " ")
        raise DataError(
            f"{name} is not {chosen}: byte 0x{content[at]:02X} at offset {at:,} (line {line:,}); say what it is "
            f"with --encoding, as --encoding {'cp1252' if chosen != 'cp1252' else 'utf-8'}."
        ) from None
    except (LookupError, ValueError, UnicodeError):
        raise DataError(f"--encoding {chosen!r} is no text encoding that Python knows.") from None
    if mark and (marked != family or text.startswith("\ufffe")):  # the mark in the other byte order
        raise DataError(f"{name} begins with the byte-order mark of {marked}, and --encoding says {chosen}.")
    if "\0" in text:
        line = count_lines(text[: text.index("\0")] + " ")
        raise DataError(
            f"{name} line {line:,} holds a NUL character, which no text has; if it is utf-16, say so with "
            "--encoding utf-16-le."
        )
    return text.removeprefix(
        "\ufeff"
    ), f"{chosen}{', by its byte-order mark' if mark and not encoding else ''}"


def _parquet(path: Path, name: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path, memory_map=True).read()
    except OSError as error:
        if error.errno:
            raise explain_os_error(error, f"reading {path}") from None
        raise DataError(f"{name} is no parquet file: {_first(error)}.") from None
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} is no parquet file: {_first(error)}.") from None
    return arrow_table(table, name, f"{table.num_rows:,} rows, parquet")


def _first(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200]


def arrow_table(data: Any, name: str, how: str, features: Any = None) -> Table:
    """A pyarrow table as it is; `features` of `datasets` say which columns are classes, else its metadata do."""
    import pyarrow

    types = pyarrow.types
    features = _features(data.schema) if features is None else features
    classes = {}
    for index, column in enumerate(data.column_names):
        names = getattr(features.get(column), "names", None)
        if isinstance(names, (list, tuple)) and names:
            classes[index] = tuple(map(str, names))

    def cells(index: int) -> Sequence[Any]:
        try:
            return data.column(index).to_pylist()
        except (UnicodeDecodeError, pyarrow.ArrowException, ValueError) as error:
            raise DataError(f"{name}: column {data.column_names[index]!r} cannot be read: {error}.") from None

    def textual(index: int) -> bool:
        kind = data.schema.field(index).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        view = getattr(types, "is_string_view", lambda kind: False)
        return types.is_string(kind) or types.is_large_string(kind) or view(kind)

    numbers = range(1, data.num_rows + 1)
    return Table(name, list(data.column_names), cells, numbers, "row", textual, how, classes)


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` wrote of the columns into a file, where it did."""
    if not schema.metadata or b"huggingface" not in schema.metadata:
        return {}
    import datasets

    try:
        return dict(datasets.Features.from_arrow_schema(schema))
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
