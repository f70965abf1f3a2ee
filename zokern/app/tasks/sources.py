"""Where a data set's tables come from: a file, a folder, a folder of `save_to_disk`, or the hub.

In a folder every data file belongs to a split, by a word in its name or else in its folders' names:
train, training; validation, valid, dev, val; test, testing, eval, evaluation. Files as the hub names
them, NAME-00000-of-00004, belong to the split NAME. Where no name says anything, all are for training.
A README.md in the hub's form, with `configs` or `dataset_info`, is followed as the hub follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from zokern.app.tasks.counts import named
from zokern.app.tasks.errors import UserError, explain_os_error
from zokern.app.tasks.files import KINDS, kind_of, read_table
from zokern.app.tasks.loading import Source, call, declared_kind, of_hub, of_loaded, the_library, with_classes
from zokern.app.tasks.tables import Table

__all__ = ["local_path", "open_source"]

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}")


def local_path(path: str) -> Path:
    """A path as given, "~" filled in where that is somebody's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


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
    local = local_path(path)
    if local.is_file():
        if config is not None:
            raise UserError(
                f"--task-config {config} is for data with configurations, and {path} is one file."
            )
        return _of_file(local, encoding)
    if local.is_dir():
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            return of_loaded(call(the_library(name).load_from_disk, name, path, str(local)))
        return _of_folder(name, local, config, encoding)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path) or kind_of(local) is not None:
        raise UserError(f"There is no file or folder {path}.")
    return of_hub(name, path, config)


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
    builder = call(the_library(name).load_dataset_builder, name, str(folder), str(folder), config)
    files = {str(split): [Path(path) for path in paths] for split, paths in builder.config.data_files.items()}
    root = folder.resolve()
    for path in (path for paths in files.values() for path in paths):
        if kind_of(path) is None:
            raise UserError(f"{path} is no data file; {_known()}.")

    def read(path: Path) -> Table:
        shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        chosen = encoding or getattr(builder.config, "encoding", None)
        kind = None if kind_of(path) in ("tsv", "json") else declared_kind(builder)
        return with_classes(read_table(path, shown, chosen, kind), builder.info.features)

    def reader(paths: Sequence[Path]) -> Callable[[], list[Table]]:
        return lambda: [read(path) for path in paths]

    text = any(kind_of(path) != "parquet" for paths in files.values() for path in paths)
    return Source({split: reader(paths) for split, paths in files.items()}, text=text)
