"""Fetching through pip, with a pip of our own: a script that copies a prepared file, or fails."""

from __future__ import annotations

import errno
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from zokern.app.tasks import UserError
from zokern.app.tasks import fetch as fetching
from zokern.app.tasks.fetch import Package, fetch, staging_folder


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TEXT = b"1\t0.5\ta line\n"


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / "index" / "thing-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("thing/data.txt", TEXT)
    return path


@pytest.fixture
def package(wheel) -> Package:
    content = wheel.read_bytes()
    members = {"thing/data.txt": ("data.txt", digest(TEXT))}
    return Package("thing", "1.0", digest(content), len(content), members)


@pytest.fixture
def pip(tmp_path, monkeypatch, wheel):
    """A pip that copies `wheel` into --dest and counts its calls; `pip(script)` replaces it."""
    monkeypatch.setenv("ZOKERN_CACHE", str(tmp_path / "cache"))
    calls = tmp_path / "calls"

    def install(body: str) -> None:
        script = tmp_path / "pip.py"
        script.write_text(f"import sys, shutil\nopen({str(calls)!r}, 'a').write('x')\n{body}")
        monkeypatch.setattr(fetching, "PIP", [sys.executable, str(script)])

    install(f"shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1])")
    install.calls = lambda: len(calls.read_text()) if calls.exists() else 0
    return install


def test_returns_the_members_and_then_reads_the_cache(pip, package):
    paths = fetch(package)
    assert paths["data.txt"].read_bytes() == TEXT
    assert fetch(package) == paths
    assert pip.calls() == 1


def test_reports_progress_up_to_the_size(pip, package):
    seen = []
    fetch(package, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (package.size, package.size)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_damaged_cache_is_fetched_again(pip, package, damage):
    path = fetch(package)["data.txt"]
    if damage == "flipped":
        path.write_bytes(bytes([TEXT[0] ^ 1]) + TEXT[1:])
    elif damage == "truncated":
        path.write_bytes(TEXT[:-1])
    else:
        path.unlink()
    assert fetch(package)["data.txt"].read_bytes() == TEXT
    assert pip.calls() == 2


def test_wrong_artefact_is_refused_and_leaves_nothing(pip, package, wheel, tmp_path):
    with zipfile.ZipFile(wheel, "a") as zipped:
        zipped.writestr("thing/extra.txt", b"more")
    with pytest.raises(UserError, match=r"Checksum of thing 1\.0 is .* not the pinned"):
        fetch(package)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_wrong_member_is_refused(pip, package):
    wrong = Package("thing", "1.0", package.sha256, package.size, {"thing/data.txt": ("d", "0" * 64)})
    with pytest.raises(UserError, match="Checksum of d in thing differs"):
        fetch(wrong)


def test_hash_mismatch_that_pip_notices_is_a_checksum_error(pip, package):
    pip("print('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES', file=sys.stderr); sys.exit(1)")
    with pytest.raises(UserError, match="differs from the pinned sha256"):
        fetch(package)


def test_failing_pip_is_one_sentence_with_its_reason(pip, package):
    pip("print('WARNING: retrying\\nERROR: No matching distribution.', file=sys.stderr); sys.exit(1)")
    with pytest.raises(UserError, match=r"Could not fetch thing 1\.0 with pip: No matching dist"):
        fetch(package)


def test_environment_without_pip_is_told_how_to_get_it(pip, package):
    pip("print('python: No module named pip', file=sys.stderr); sys.exit(1)")
    with pytest.raises(UserError, match="ensurepip"):
        fetch(package)


def test_missing_program_is_a_sentence(pip, package, monkeypatch):
    monkeypatch.setattr(fetching, "PIP", ["/nonexistent/pip"])
    with pytest.raises(UserError, match="Cannot run /nonexistent/pip"):
        fetch(package)


def test_full_disk_is_a_sentence(pip, package, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching.os, "replace", full)
    with pytest.raises(UserError, match="disk is full"):
        fetch(package)


def test_reads_an_archive_inside_an_archive(tmp_path, monkeypatch, pip):
    inner = tar_bytes({"deep/data.txt": TEXT})
    outer = tar_bytes({"thing-1.0/more/inner.tar.gz": inner})
    source = tmp_path / "thing-1.0.tar.gz"
    source.write_bytes(outer)
    pip(
        f"assert '--no-binary' in sys.argv\n"
        f"shutil.copy({str(source)!r}, sys.argv[sys.argv.index('--dest') + 1])"
    )
    members = {"thing-1.0/more/inner.tar.gz::deep/data.txt": ("data.txt", digest(TEXT))}
    package = Package("thing", "1.0", digest(outer), len(outer), members, sdist=True)
    assert fetch(package)["data.txt"].read_bytes() == TEXT


def test_members_may_go_into_subfolders(pip, package):
    members = {"thing/data.txt": ("sub/folder/data.txt", digest(TEXT))}
    nested = Package("thing", "1.0", package.sha256, package.size, members)
    assert fetch(nested)["sub/folder/data.txt"].read_bytes() == TEXT


def test_missing_member_is_a_sentence(pip, package):
    absent = Package("thing", "1.0", package.sha256, package.size, {"thing/no": ("n", "0" * 64)})
    with pytest.raises(UserError, match="no readable member thing/no"):
        fetch(absent)


def test_staging_is_removed_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), staging_folder(tmp_path) as folder:
        (folder / "half").write_text("x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
