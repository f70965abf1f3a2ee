"""`--method adazeta --tune tt`: what it trains and writes, its queries by epoch, stopping and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zokern.app.models import load_classifier
from zokern.app.tasks import UserError
from zokern.app.training import TrainOptions, run_training
from zokern.app.tuning import TuningOptions, apply_tuning
from zokern.nn import load_tt_adapters

from .conftest import FAMILIES


@pytest.fixture
def base(tmp_path, model_folder, data_folder):
    """Options of a run over 48 examples in batches of 8: six steps an epoch, queries 1, 2, 3, ..."""

    def options(name="run", family="llama", **more):
        values = {
            "steps": 15,
            "batch_size": 8,
            "checkpoint_every": 4,
            "test_size": 24,
            "method": "adazeta",
            "bottleneck": 8,
            "rank": 2,
            "query_alpha": 1.0,
            "query_beta": 1.0,
            "query_max": 3,
            "lr": 1e-3,
            "label_words": ("terrible", "great"),
            "prompt": "the film review was as follows and it said : {text}",
            "answer": "It was",
        }
        return TrainOptions(
            task=str(data_folder),
            model=str(model_folder(family)),
            out=str(tmp_path / name),
            **{**values, **more},
        )

    return options


def rows(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def adapters(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "tt_adapters.safetensors")


def assert_same_adapters(one: Path, two: Path) -> None:
    a, b = adapters(one), adapters(two)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_queries_by_epoch_are_in_metrics_and_summary(base, tmp_path, quiet):
    summary = run_training(base(), display=quiet)
    steps = rows(tmp_path / "run", "step")
    assert [row["epoch"] for row in steps] == [0] * 6 + [1] * 6 + [2] * 3
    assert [row["evaluations"] for row in steps] == [2] * 12 + [4] * 3
    assert summary["evaluations_by_epoch"] == {0: 2, 1: 2, 2: 4}
    assert summary["forward_passes"] == 12 * 2 + 3 * 4
    assert summary["tuning"] == "tt"
    assert (tmp_path / "run" / "learning_curve.png").stat().st_size > 10_000


def test_weights_load_into_a_fresh_model(base, tmp_path, quiet, task, model_folder):
    run_training(base(), display=quiet)
    model = load_classifier(str(model_folder("llama")), task)
    batch, _ = model.collate(task, "test", range(4))
    with torch.no_grad():
        before = model(batch)
        bank = load_tt_adapters(model.lm, tmp_path / "run" / "weights")
        assert bank.flat.numel() and not torch.equal(model(batch), before)


@pytest.mark.parametrize("evaluation", ["loop", "batched"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resumed_run_is_the_whole_run(base, tmp_path, quiet, evaluation, dtype):
    """From the checkpoint and the log; the log of a loop also resumes batched."""
    more = {"evaluation": evaluation, "dtype": dtype, "lr_schedule": "constant"}
    run_training(base("whole", **more), display=quiet)
    run_training(base("cut", steps=10, **more), display=quiet)
    run_training(resume=tmp_path / "cut", steps=15, display=quiet)
    assert_same_adapters(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "checkpoint.pt").unlink()
    run_training(resume=tmp_path / "cut", display=quiet)
    assert_same_adapters(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_losses_are_the_loops(base, tmp_path, quiet, family):
    """Prompted models of all families, with the shared beginning of the prompts run once a copy."""
    for evaluation in ("loop", "batched"):
        options = base(evaluation, family, steps=2, num_queries=2, evaluation=evaluation, lr=1e-4)
        run_training(options, display=quiet)
    logs = [(tmp_path / name / "steps.jsonl").read_text().splitlines()[1:] for name in ("loop", "batched")]
    for a, b in zip(*(map(json.loads, log) for log in logs)):
        one, other = ([float.fromhex(v) for v in row["values"]] for row in (a, b))
        assert len(one) == 4 and one == pytest.approx(other, abs=3e-6)


def test_head_of_a_classifier_is_trained_in_parallel_too(base, tmp_path, quiet):
    more = {"scoring": "head", "label_words": None, "prompt": None, "answer": None}
    run_training(base(family="bert", evaluation="batched", steps=3, **more), display=quiet)
    weights = tmp_path / "run" / "weights"
    assert {p.name for p in weights.iterdir()} == {
        "tt_adapters.safetensors",
        "tt_adapters.json",
        "head.safetensors",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_tuning_starts_at_the_model_and_freezes_the_rest(family, model_folder, task):
    model = load_classifier(str(model_folder(family)), task)
    batch, _ = model.collate(task, "test", range(4))
    with torch.no_grad():
        before = model(batch)
        tuned = apply_tuning("tt", model, TuningOptions(bottleneck=8, rank=2, seed=3))
        assert torch.equal(model(batch), before)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["lm.tt_adapters.flat"]
    assert tuned.description == "4 TT adapters, bottleneck 8, rank 2"


def test_schedule_works_with_mezo_and_lora(base, tmp_path, quiet):
    run_training(base(method="mezo", tuning="lora", query_schedule=True, lora_rank=2), display=quiet)
    steps = rows(tmp_path / "run", "step")
    assert [row["evaluations"] for row in steps] == [2] * 12 + [4] * 3


DEFAULT_SCHEDULE = {"query_alpha": 0.85, "query_beta": 0.45, "query_max": 20}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"evaluation": "all"}, "--evaluation must be one of loop, batched, got 'all'"),
        (
            {**DEFAULT_SCHEDULE, "evaluation": "batched", "method": "fo-adamw"},
            "fo-adamw does not read --evaluation; drop it .it is for mezo, ",
        ),
        ({"query_schedule": True, "num_queries": 2}, "--query-schedule says how many; drop --num-queries 2"),
        ({"rank": 0}, "--rank must be positive, got 0"),
        ({"bottleneck": -1}, "--bottleneck must be positive, got -1"),
        ({"query_max": 0}, "--query-max must be positive, got 0"),
        ({"query_beta": -1.0}, "--query-beta must not be negative, got -1.0"),
        ({"max_parallel": 0}, "--max-parallel must be positive, got 0"),
        ({"evaluation": "batched", "restore": "inplace"}, "Method adazeta rejects its options: restore"),
    ],
)
def test_bad_options_are_named(base, quiet, more, message):
    with pytest.raises(UserError, match=message):
        run_training(base(**more), display=quiet)


def test_tt_needs_a_transformer(quiet, tmp_path):
    options = TrainOptions(task="digits", tuning="tt", out=str(tmp_path / "run"))
    with pytest.raises(UserError, match="--tuning tt needs a transformer"):
        run_training(options, display=quiet)


def test_command_line(cli, tmp_path, model_folder, data_folder):
    result = cli(
        "train",
        *("--model", model_folder("gpt2"), "--task", data_folder, "--label-words", "terrible,great"),
        *("--answer", "It was", "--steps", 3, "--batch-size", 4, "--out", "out"),
        *("--method", "adazeta", "--tune", "tt", "--bottleneck", 8, "--rank", 2),
        *("--evaluation", "batched", "--max-parallel", 2),
    )
    assert result.exit_code == 0, result.output
    assert "4 TT adapters, bottleneck 8, rank 2" in " ".join(result.stdout.split())
    assert (tmp_path / "out" / "weights" / "tt_adapters.safetensors").exists()
