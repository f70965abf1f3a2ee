"""Packaged models, with small stand-ins for the real files; one test fetches a real package."""

from __future__ import annotations

import pytest

from zokern.app.models import packaged
from zokern.app.models.packaged import smollm2_folder
from zokern.app.tasks import UserError


@pytest.fixture
def conversion(tmp_path, monkeypatch):
    """Replaces the download and the conversion; returns the calls of the latter."""
    monkeypatch.setenv("ZOKERN_CACHE", str(tmp_path))
    gguf = tmp_path / "m.gguf"
    calls = []

    def fetch(package, progress):
        gguf.write_bytes(b"weights")
        return {"SmolLM2-135M-Instruct.Q4_1.gguf": gguf}

    def convert(source, folder):
        calls.append(source.read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"converted")

    monkeypatch.setattr(packaged, "fetch", fetch)
    monkeypatch.setattr(packaged, "_convert_gguf", convert)
    return calls


def test_converts_once_and_says_so(conversion):
    said = []
    folder = smollm2_folder(notify=said.append)
    assert (folder / "model.safetensors").read_bytes() == b"converted"
    assert smollm2_folder(notify=said.append) == folder
    assert conversion == [b"weights"]
    assert len(said) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_damaged_conversion_is_made_again(conversion, name):
    folder = smollm2_folder()
    (folder / name).write_bytes(b"damaged")
    assert smollm2_folder() == folder
    assert (folder / "model.safetensors").read_bytes() == b"converted"
    assert len(conversion) == 2


def test_interrupted_conversion_leaves_nothing_behind(conversion, monkeypatch, tmp_path):
    def interrupted(source, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "_convert_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smollm2_folder()
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.network
def test_real_movie_reviews_train_two_steps(cli, model_folder):
    result = cli(
        "train",
        *("--model", model_folder("gpt2"), "--max-length", 120, "--test-size", 8, "--steps", 2),
        *("--label-words", "terrible,great", "--out", "out"),
    )
    if "Could not fetch vaderSentiment" in result.stderr:
        pytest.skip(f"no package index here: {result.stderr.strip()}")
    assert result.exit_code == 0, result.stderr
    assert "10,566 movie-review sentences" in result.stdout


def test_missing_converter_is_a_sentence(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="Model smollm2 needs the package gguf"):
        packaged._convert_gguf(tmp_path / "x.gguf", tmp_path / "out")
