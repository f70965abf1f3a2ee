"""The output folder of a run, and the rules for writing into one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zokern.app.tasks import UserError, explain_os_error
from zokern.app.training.checkpoint import CHECKPOINT, write_atomically
from zokern.app.training.lock import LOCK, FolderLock

__all__ = ["CONFIG", "METRICS", "PLOT", "STEPS", "SUMMARY", "WEIGHTS", "Folder"]

CONFIG = "config.json"
STEPS = "steps.jsonl"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
PLOT = "learning_curve.png"
WEIGHTS = "weights"
_OURS = (STEPS, METRICS, SUMMARY, PLOT, WEIGHTS, CHECKPOINT, CONFIG)  # the last one says that it is a run


class Folder:
    """A run's folder.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FolderLock(path)

    def file(self, name: str) -> Path:
        return self.path / name

    def claim(self, overwrite: bool) -> None:
        """Makes the folder ready for a new run, and takes its lock.

        Raises:
            UserError: it holds something, and `overwrite` was not given or it is not a run; or another process has
                it.
        """
        self.check_free(overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, f"preparing {self.path}") from None
        self.lock.take()
        with self.lock.held_on_error():
            self.check_free(overwrite)
            self._empty()

    def check_free(self, overwrite: bool) -> None:
        """Raises `UserError` where `claim` would; changes nothing."""
        self.lock.refuse_if_taken()
        path = self.path
        try:
            if path.exists() and not path.is_dir():
                raise UserError(f"--out {path} is a file, not a folder.")
            names = {entry.name for entry in path.iterdir()} if path.exists() else set()
            content = sorted(names - {LOCK})
            if content and not overwrite:
                what = "a run" if CONFIG in content else "other files"
                resume = f"Continue it with --resume {path}, " if CONFIG in content else ""
                advice = f"{resume}start over with --overwrite," if resume else "Choose"
                raise UserError(
                    f"{path} already holds {what}. {advice} {'or choose ' if resume else ''}"
                    "another folder with --out."
                )
            if content and CONFIG not in content:
                raise UserError(
                    f"{path} holds files that are not a run's ({content[0]}, ...); --overwrite "
                    "only replaces runs. Choose another folder with --out."
                )
        except OSError as error:
            raise explain_os_error(error, f"preparing {path}") from None

    def _empty(self) -> None:
        path = self.path
        try:
            for name in (*_OURS, *(f".{name}.partial" for name in _OURS)):
                entry = path / name
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
        except OSError as error:
            raise explain_os_error(error, f"preparing {path}") from None

    def write_json(self, name: str, value: dict[str, Any], sealed: bool = False) -> Path:
        """Writes a file of one object; `sealed`: with a checksum, which `read_sealed` compares."""
        if sealed:
            value = {**value, "check": _check(value)}
        write_atomically(self.file(name), (json.dumps(value, indent=1) + "\n").encode())
        return self.file(name)

    def read_sealed(self, name: str) -> dict[str, Any]:
        """What `write_json` wrote, without its checksum; an earlier release wrote none.

        Raises:
            ValueError: it is damaged.
            OSError: it cannot be read.
        """
        try:
            value = json.loads(self.file(name).read_text())
        except RecursionError:
            raise ValueError("it is no JSON") from None
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        check = value.pop("check", None)
        if check is not None and check != _check(value):
            raise ValueError("its checksum is not that of its content; it was changed since it was written")
        return value

    def read_config(self) -> dict[str, Any]:
        """The config of the run that is here.

        Raises:
            UserError: there is no run here.
        """
        try:
            config = json.loads(self.file(CONFIG).read_text())
            if not isinstance(config, dict) or not isinstance(config.get("options"), dict):
                raise ValueError("there are no options in it")
        except FileNotFoundError:
            raise UserError(f"There is no run to resume in {self.path}: no {CONFIG} there.") from None
        except NotADirectoryError:
            raise UserError(f"--resume needs a run's folder, and {self.path} is a file.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{self.file(CONFIG)} cannot be read: {error}. Nothing was changed. The run's options stand in the "
                f"first line of {self.file(STEPS)} too."
            ) from None
        except OSError as error:
            raise explain_os_error(error, f"reading {self.file(CONFIG)}") from None
        return config

    def write_weights(self, save: Callable[[Path], list[Path]]) -> list[Path]:
        """Runs `save` into a fresh folder and puts that in the place of the old weights."""
        final, partial = self.file(WEIGHTS), self.file(f".{WEIGHTS}.partial")
        with explained(f"writing the weights into {final}"):
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                names = [path.name for path in save(partial)]
                if final.exists():
                    shutil.rmtree(final)
                partial.rename(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return [final / name for name in names]


def _check(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns what goes wrong with a disk into a sentence, whichever library noticed it."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, doing) from None
    except Exception as error:
        if "No space left on device" in str(error) or "os error 28" in str(error):
            raise UserError(f"The disk is full: failed {doing}. Free some space.") from None
        raise
