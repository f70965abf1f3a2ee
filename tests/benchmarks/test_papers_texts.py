"""The language-model scripts of benchmarks/papers: each runs whole in its quick form; what they share."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="zokern[train] is not installed")
pytest.importorskip("matplotlib", reason="zokern[train] is not installed")

from benchmarks.papers.common import Experiment
from benchmarks.papers.non_differentiable import macro_f1
from benchmarks.papers.texts import Kept, Texts, tiny_model, tiny_task
from zokern.app.models import load_classifier
from zokern.app.tuning import TuningOptions, apply_tuning

SCRIPTS = ("adamu_reviews", "adazeta_reviews", "memory", "non_differentiable", "reuters_svrg")


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_run_writes_its_files_and_keeps_its_runs(name, tmp_path):
    main = importlib.import_module(f"benchmarks.papers.{name}").main
    main(["--quick", "--out", str(tmp_path)])
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["name"] == name and record["tables"] and record["agrees"] and record["differs"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.md").read_text().startswith(f"# {name}")
    kept = (tmp_path / f"{name}.jsonl").read_text()
    main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / f"{name}.jsonl").read_text() == kept  # nothing was run again


def experiment(out: Path) -> Experiment:
    return Experiment("script", "paper", "claim", True, [0], out)


def test_an_interrupted_script_goes_on_where_it_stopped(tmp_path):
    runs = []

    def run(seed: int) -> dict[str, int]:
        runs.append(seed)
        if seed == 1 and len(runs) == 2:
            raise KeyboardInterrupt
        return {"value": seed}

    kept = Kept(experiment(tmp_path))
    assert kept.get({"seed": 0}, lambda: run(0))["value"] == 0
    with pytest.raises(KeyboardInterrupt):
        kept.get({"seed": 1}, lambda: run(1))
    kept = Kept(experiment(tmp_path))
    assert [kept.get({"seed": seed}, lambda seed=seed: run(seed))["value"] for seed in (0, 1)] == [0, 1]
    assert runs == [0, 1, 1]


def test_kept_hidden_states_give_the_logits_of_the_whole_model(tmp_path):
    task = tiny_task(20, 10)
    model = load_classifier(str(tmp_path_model(tmp_path)), task)
    torch.nn.init.normal_(model.head_modules()[0].weight)
    apply_tuning("last-layers", model, TuningOptions(last_layers=1))
    texts = Texts(model, task)
    with torch.no_grad():
        whole = [model(texts.batch(split, [3, 0, 7])[0]) for split in ("train", "test")]
    cut = Texts(model, task, frozen_below=1)
    with torch.no_grad():
        for split, logits in zip(("train", "test"), whole):
            torch.testing.assert_close(model(cut.batch(split, [3, 0, 7])[0]), logits, rtol=1e-4, atol=1e-5)
    assert len(model.layers()) == 1


def tmp_path_model(folder: Path) -> Path:
    return tiny_model("encoder", folder / "encoder")


def test_macro_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=generator)
    labels = torch.randint(0, 3, (200,), generator=generator)  # the last class is only ever predicted
    expected = f1_score(labels, logits.argmax(1), average="macro")
    assert macro_f1(logits, labels) == pytest.approx(expected, abs=1e-6)
