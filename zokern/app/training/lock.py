"""One process at a time in a folder: a lock that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zokern.app.tasks import UserError, explain_os_error

__all__ = ["LOCK", "FolderLock"]

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderLock:
    """The right to write into a folder.

    Args:
        folder: which exists when the lock is taken.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._file = folder / LOCK, None  # type: Path, Any

    def take(self) -> None:
        """Takes the lock, and writes into its file who holds it.

        Raises:
            UserError: another process has it; the sentence says which.
        """
        try:
            while True:
                file = open(self.path, "a+")  # noqa: SIM115
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    note = file.read()
                    file.close()
                    raise UserError(
                        f"{self.path.parent} is in use by {_holder(note)}. Wait until it ends, or stop it."
                    ) from None
                except OSError as error:
                    if error.errno not in _NO_LOCKS:  # a file system without locks: there is none to take
                        raise
                if self._is_at_path(file):
                    break
                file.close()  # its holder ended, and took it away, since it was opened
            file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S %z")
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}))
            file.flush()
        except OSError as error:
            raise explain_os_error(error, f"locking {self.path}") from None
        self._file = file

    def refuse_if_taken(self) -> None:
        """Raises `UserError` where another has the lock."""
        if self._file is None and self.path.exists():
            self.take()
            self.release()

    def release(self) -> None:
        """Gives the lock back and takes its file away; nothing where it is not held."""
        if self._file is None:
            return
        with suppress(OSError):
            if self._is_at_path(self._file):  # not where the folder was moved and another is in its place
                self.path.unlink()
        with suppress(OSError):
            self._file.close()
        self._file = None

    def _is_at_path(self, file: Any) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    @contextmanager
    def held_on_error(self) -> Iterator[None]:
        """Gives the lock back when what is inside fails."""
        try:
            yield
        except BaseException:
            self.release()
            raise


def _holder(note: str) -> str:
    try:
        holder = json.loads(note)
        return f"process {holder['pid']} on {holder['host']}, since {holder['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
