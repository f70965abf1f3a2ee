"""The commands: what they print, where, and with which exit code."""

from __future__ import annotations

import dataclasses
import errno
import json
import subprocess
import sys

import pytest
import transformers

from zokern.app.cli import app
from zokern.app.tasks import fetch as fetching
from zokern.app.training import METHODS

from .conftest import WORDS, as_version_1


def refuses(result, *parts):
    """Exit code 2, one plain line on stderr, no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("zokern: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output + result.stderr
    for part in parts:
        assert part in result.stderr


def digits(cli, *more):
    return cli("train", "--task", "digits", "--steps", 3, "--num-queries", 1, *more)


def test_trains_and_prints_the_table(cli, tmp_path):
    result = digits(cli)
    assert result.exit_code == 0, result.output
    assert "before training" in result.stdout and "after 3 steps" in result.stdout
    assert result.stderr == ""
    assert (tmp_path / "runs" / "digits-mlp-mezo-full-seed0" / "summary.json").exists()


def test_whole_path_from_local_model_and_data(cli, tmp_path, model_folder, data_folder):
    result = cli(
        "train",
        *("--model", model_folder("gpt2"), "--task", data_folder, "--label-words", "terrible,great"),
        *("--answer", "It was", "--steps", 4, "--batch-size", 4, "--lora-rank", 2, "--out", "out"),
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "weights" / "adapter_model.safetensors").exists()
    assert "calibration of the label prior" in " ".join(result.stdout.split())
    assert "prior removed" in result.stdout


def test_prompt_free_path_has_no_prior_to_speak_of(cli, model_folder, data_folder):
    result = cli(
        "train",
        *("--model", model_folder("distilbert"), "--task", data_folder, "--steps", 2),
        *("--scoring", "head", "--tuning", "last-layers", "--last-layers", 1),
    )
    assert result.exit_code == 0, result.output
    assert "prior" not in result.stdout


def test_quiet_prints_the_table_only(cli):
    result = digits(cli, "--quiet")
    assert "before training" in result.stdout
    assert "learning rate" not in result.stdout and "folder" not in result.stdout


def test_second_run_into_the_same_folder_is_refused(cli):
    assert digits(cli, "--out", "out").exit_code == 0
    refuses(digits(cli, "--out", "out"), "out already holds a run", "--resume out", "--overwrite")
    assert digits(cli, "--out", "out", "--overwrite").exit_code == 0


def test_resume_takes_its_options_from_the_run(cli):
    assert digits(cli, "--out", "out", "--lr-schedule", "constant").exit_code == 0
    refuses(cli("train", "--resume", "out", "--lr", 0.5), "drop --lr")
    refuses(cli("train", "--resume", "out", "--overwrite"), "drop --overwrite")
    result = cli("train", "--resume", "out", "--steps", 5)
    assert result.exit_code == 0, result.output
    assert "Resuming after step 3 of 5" in result.stdout
    assert "after 5 steps" in result.stdout


def test_resume_needs_a_run(cli, tmp_path):
    refuses(cli("train", "--resume", "nowhere"), "no run to resume in nowhere")
    (tmp_path / "config.json").write_text("{")
    refuses(cli("train", "--resume", "."), "config.json cannot be read")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--lr", "-1e-3"], "--lr must be positive, got -0.001"),
        (["--dtype", "int8"], "--dtype must be one of fp32, bf16, fp16"),
        (["--model", "smollm2"], "its model is mlp, not smollm2"),
        (["--tuning", "lora"], "--tuning lora needs a transformer"),
        (["--method", "sgd"], "Unknown method 'sgd'"),
    ],
)
def test_bad_choices_are_plain_sentences(cli, arguments, part):
    refuses(digits(cli, *arguments), part)


def test_unknown_task(cli):
    refuses(cli("train", "--task", "digitz"), "Unknown task 'digitz'", "Did you mean digits?")


def test_no_network_for_a_packaged_task(cli, tmp_path, monkeypatch):
    failing = "import sys; print('ERROR: Could not find a version', file=sys.stderr); sys.exit(1)"
    monkeypatch.setattr(fetching, "PIP", [sys.executable, "-c", failing])
    refuses(cli("train"), "Could not fetch vaderSentiment 3.3.2 with pip", "Check the network")


def test_bad_checksum_of_a_packaged_task(cli, tmp_path, monkeypatch):
    script = "import sys; open(sys.argv[sys.argv.index('--dest') + 1] + '/x.gz', 'w').write('x')"
    monkeypatch.setattr(fetching, "PIP", [sys.executable, "-c", script])
    refuses(cli("train"), "Checksum of vaderSentiment 3.3.2", "nothing from it was used")


def test_unknown_model(cli, data_folder, monkeypatch):
    def absent(*args, **kwargs):
        raise OSError("nonsense is not a local folder and is not a valid model identifier")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", absent)
    refuses(cli("train", "--task", data_folder, "--model", "nonsense"), "Unknown model 'nonsense'")


def test_label_word_that_is_several_tokens(cli, data_folder, model_folder):
    result = cli(
        "train",
        *("--task", data_folder, "--model", model_folder("gpt2"), "--label-words", "awful,great"),
    )
    refuses(result, "'awful' is", "must be a single token")


def test_full_disk(cli, tmp_path, monkeypatch):
    from zokern.app.training import log

    def full(self, row):
        raise log.explain_os_error(OSError(errno.ENOSPC, "No space left"), "writing steps.jsonl")

    monkeypatch.setattr(log.LineLog, "append", full)
    refuses(digits(cli), "The disk is full: failed writing steps.jsonl")


def test_full_disk_that_nobody_foresaw(cli, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zokern.app.training.run_training", full)
    refuses(digits(cli), "The disk is full")


def test_read_only_folder(cli, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("zokern.app.training.folder.Path.mkdir", denied)
    refuses(digits(cli, "--out", "out"), "No permission: failed preparing out")


def test_interrupt_says_how_to_go_on(cli, monkeypatch):
    def step(optimizer, closures, progress):
        if progress.step == 2:
            raise KeyboardInterrupt
        return optimizer.step(closures.batch)

    monkeypatch.setitem(METHODS, "mezo", dataclasses.replace(METHODS["mezo"], step=step))
    result = digits(cli, "--out", "out")
    assert result.exit_code == 130
    assert "stopped after step 2" in result.stderr
    assert "zokern train --resume out" in result.stderr


def test_help_teaches(cli):
    result = cli("train", "--help")
    assert result.exit_code == 0
    for part in ("Examples", "Which parameters", "--train-modules", "Optimizer", "--resume"):
        assert part in result.stdout


def test_unknown_option_is_a_usage_error(cli):
    result = cli("train", "--learning-rate", "1")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_info_and_the_bare_module_print_the_backends(cli, capsys, monkeypatch):
    from zokern import __main__, backends

    monkeypatch.setattr(sys, "argv", ["zokern"])
    __main__.main()
    bare = capsys.readouterr().out
    assert cli("info").exit_code == 0
    for row in backends.status():
        assert row["backend"] in bare
        assert row["unavailable"] in bare


def test_commands_without_typer_say_what_to_install():
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['zokern', 'train']\n"
        "from zokern.__main__ import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "zokern: commands need typer: pip install 'zokern[train]'.\n"


def test_words_and_options_reach_the_run(cli, tmp_path, model_folder, data_folder):
    result = cli(
        "train",
        *("--model", model_folder("llama"), "--task", data_folder, "--steps", 2, "--out", "out"),
        *("--label-words", ", ".join(WORDS), "--lora-targets", "q_proj, o_proj"),
        *("--distribution", "rademacher", "--one-sided", "--no-lazy", "--restore", "snapshot"),
        *("--seed", 9, "--threads", 1, "--weight-decay", 0.1, "--momentum", 0.9),
    )
    assert result.exit_code == 0, result.output
    options = json.loads((tmp_path / "out" / "config.json").read_text())["options"]
    expected = {
        "label_words": list(WORDS),
        "lora_targets": ["q_proj", "o_proj"],
        "distribution": "rademacher",
        "one_sided": True,
        "lazy": False,
        "restore": "snapshot",
        "seed": 9,
        "threads": 1,
        "weight_decay": 0.1,
        "momentum": 0.9,
    }
    assert {name: options[name] for name in expected} == expected
    assert "restore snapshot" in result.stdout


def test_every_option_of_a_run_is_on_the_command_line():
    import typer

    from zokern.app.training import TrainOptions

    train = typer.main.get_command(app).commands["train"]
    offered = {parameter.name for parameter in train.params}
    assert {field.name for field in dataclasses.fields(TrainOptions)} <= offered
    undocumented = [parameter.name for parameter in train.params if not parameter.help]
    assert not undocumented


@pytest.mark.parametrize(
    ("arguments", "note", "expected"),
    [
        (
            ("--method", "adazeta", "--tuning", "head", "--queries", "parallel"),
            "zokern: --queries is deprecated; use --evaluation batched.",
            {"evaluation": "batched"},
        ),
        (
            ("--method", "mezo-svrg", "--full-batch-size", 16, "--snapshot", "copy"),
            "zokern: --snapshot is deprecated; use --anchor copy.",
            {"anchor": "copy"},
        ),
    ],
)
def test_old_names_of_options_are_taken_with_a_note(cli, tmp_path, arguments, note, expected):
    result = cli("train", "--task", "digits", "--steps", 1, *arguments, "--out", "out")
    assert result.stderr.splitlines()[0] == note, result.stderr
    assert result.exit_code == 0, result.output
    options = json.loads((tmp_path / "out" / "config.json").read_text())["options"]
    assert {name: options[name] for name in expected} == expected
    assert "queries" not in options and "snapshot" not in options
    assert "--queries" not in cli("train", "--help").stdout


def test_a_run_of_an_earlier_version_is_resumed(cli, tmp_path):
    more = ("--method", "mezo-svrg", "--full-batch-size", 16, "--anchor", "copy", "--lr-schedule", "constant")
    assert cli("train", "--task", "digits", "--steps", 2, *more, "--out", "out").exit_code == 0
    as_version_1(tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    options = config["options"]
    options["snapshot"], options["queries"] = options.pop("anchor"), options.pop("evaluation")
    path.write_text(json.dumps(config))
    result = cli("train", "--resume", "out", "--steps", 3)
    assert result.exit_code == 0, result.output
    options = json.loads(path.read_text())["options"]
    assert (options["anchor"], options["evaluation"]) == ("copy", "loop")
