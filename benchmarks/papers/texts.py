"""What the language-model scripts share: kept runs, a model with its examples, tiny stand-ins.

    runs = Kept(experiment)
    row = runs.get({"method": "mezo", "seed": 0}, lambda: train(...))      # not run again next time

`Texts` cuts batches of a task for a model and scores them. Where only the last layers are tuned it can run
the frozen ones once per example and keep what they make of it: with MiniLM's last layer of six, a forward
takes a sixth of the time.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from zokern.app.data import batch_indices
from zokern.app.models import Classifier, Inputs, PooledClassifier
from zokern.app.tasks import Evaluation, Example, Task, TextTask, evaluate_logits
from zokern.app.training import Display, TrainOptions, run_training

from .common import Experiment


class Kept:
    """Finished runs of a script as JSON lines beside its results: results/NAME.jsonl.

    A run is known by its settings; one that is in the file is read, not run. Delete the file to start
    over. `seconds` sums the processor time of the kept runs, in whichever process: machines are shared.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.path = experiment.out / f"{experiment.name}.jsonl"
        self.seconds = 0.0
        self._rows: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self._rows[self._key(row["settings"])] = row

    def get(self, settings: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of `run` for these settings, from the file or from now on in it."""
        key = self._key(settings)
        if key not in self._rows:
            started = self._clock()
            result = run()
            row = {"settings": settings, "seconds": round(self._clock() - started, 2), **result}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
            self._rows[key] = row
        self.seconds += self._rows[key]["seconds"]
        return self._rows[key]

    @staticmethod
    def _clock() -> float:
        """Processor seconds of this process and of the children it waited for."""
        return sum(os.times()[:4])

    def charge(self, experiment: Experiment) -> None:
        """Makes the experiment's time that of its runs, those of earlier processes included."""
        experiment.started = time.process_time() - self.seconds

    @staticmethod
    def _key(settings: dict[str, Any]) -> str:
        return json.dumps(settings, sort_keys=True)


class Texts:
    """A classifier and the examples of its task.

    Args:
        model: in evaluation mode.
        task: what it classifies.
        frozen_below: keep the hidden states below the last so many layers, and run only those (sentence
            encoders of the BERT family).
    """

    def __init__(self, model: Classifier, task: Task, frozen_below: int | None = None) -> None:
        self.model, self.task = model, task
        self._hidden: dict[tuple[str, int], torch.Tensor] | None = None
        if frozen_below is not None:
            self._cut(frozen_below)

    def length(self, index: int) -> int:
        return self.model.length(self.task, "train", index)

    def batch(self, split: str, indices: Sequence[int]) -> tuple[Inputs, torch.Tensor]:
        """Inputs and labels of some examples."""
        batch, labels = self.model.collate(self.task, split, indices)
        if self._hidden is None:
            return batch, labels
        hidden = [self._hidden[split, index] for index in indices]
        padded = nn.utils.rnn.pad_sequence(hidden, batch_first=True)
        return {"inputs_embeds": padded, "attention_mask": batch["attention_mask"]}, labels

    def step_batch(self, seed: int, step: int, size: int) -> tuple[Inputs, torch.Tensor]:
        """The batch of a training step, as `zokern train` cuts it."""
        n = self.task.train_length
        return self.batch("train", batch_indices(seed, step, size, n, self.length))

    def split(self, split: str, size: int = 64) -> list[tuple[Inputs, torch.Tensor]]:
        """A whole split in batches of similar length."""
        n = self.task.train_length if split == "train" else len(self.task.test_labels)
        return [self.batch(split, indices) for indices in self._by_length(split, n, size)]

    def _by_length(self, split: str, n: int, size: int) -> list[list[int]]:
        order = sorted(range(n), key=lambda index: (self.model.length(self.task, split, index), index))
        return [order[i : i + size] for i in range(0, n, size)]

    def loss(self, batch: tuple[Inputs, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    @torch.no_grad()
    def score(self, batches: Sequence[tuple[Inputs, torch.Tensor]]) -> Evaluation:
        """Accuracy and loss over batches."""
        logits = torch.cat([self.model(batch) for batch, _ in batches])
        return evaluate_logits(logits, torch.cat([labels for _, labels in batches]))

    def _cut(self, layers: int) -> None:
        model = self.model
        assert isinstance(model, PooledClassifier)
        blocks = model.layers()
        tail = nn.ModuleList(blocks[-layers:])
        self._hidden = {}
        inputs: list[torch.Tensor] = []
        hook = tail[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
        with torch.no_grad():
            for split, n in (("train", self.task.train_length), ("test", len(self.task.test_labels))):
                for indices in self._by_length(split, n, 64):
                    batch, _ = model.collate(self.task, split, indices)
                    model(batch)
                    for index, hidden, mask in zip(indices, inputs.pop(), batch["attention_mask"]):
                        self._hidden[split, index] = hidden[: int(mask.sum())].clone()
        hook.remove()
        model.lm.encoder.layer = tail
        model.lm.embeddings = _Given()


class _Given(nn.Module):
    """In the place of embeddings: the hidden states themselves."""

    def forward(self, inputs_embeds: torch.Tensor, **other: Any) -> torch.Tensor:
        return inputs_embeds


def zokern_train(options: TrainOptions, tiny: Path | None) -> dict[str, Any]:
    """One run of `zokern train`, in a folder that is not kept.

    Args:
        options: of the run; `out` is set here.
        tiny: for --quick, a folder for a tiny model and task to put in place of the named ones.

    Returns:
        "losses" and "forwards" (over a batch) of each step, "evaluations" (step, accuracy) on the test set,
        and the summary's "before" and "after".
    """
    if tiny is not None:
        task = tiny_task()
        options.task, options.model = str(tiny_data(tiny / "data")), str(tiny_model("causal", tiny / "model"))
        options.label_words = task.label_words
    with tempfile.TemporaryDirectory() as folder:
        options.out = str(Path(folder) / "run")
        console = Console(file=io.StringIO())
        summary = run_training(options, display=Display(quiet=True, console=console))
        lines = (Path(options.out) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    steps = [row for row in rows if row["kind"] == "step"]
    names = ("accuracy", "calibrated_accuracy", "loss", "majority")
    return {
        "losses": [round(row["loss"], 4) for row in steps],
        "forwards": [row["forwards"] for row in steps],
        "evaluations": [[row["step"], row["accuracy"]] for row in rows if row["kind"] == "eval"],
        **{when: {name: summary[when][name] for name in names} for when in ("before", "after")},
    }


GOOD, BAD = ("lovely", "bright", "moving", "clever", "warm"), ("dull", "empty", "noisy", "clumsy", "cold")
_FILLER = ("the", "film", "story", "was", "a", "bit", "and", "very", "long", "short", "plot", "cast")
_WORDS = ("It", "was", "terrible", "great", ":", "review", *GOOD, *BAD, *_FILLER)


def tiny_task(train: int = 64, test: int = 32) -> TextTask:
    """Sentences whose class is decided by one word, for --quick."""
    draw = random.Random(0)
    examples = []
    for i in range(train + test):
        words = draw.choices(_FILLER, k=draw.randrange(3, 9))
        words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[i % 2]))
        examples.append(Example({"text": " ".join(words)}, i % 2))
    return TextTask(
        name="tiny",
        labels=("negative", "positive"),
        source="made up",
        train=examples[:train],
        test=examples[train:],
        prompt="review : {text}",
        answer="It was",
        label_words=("terrible", "great"),
    )


def tiny_data(folder: Path) -> Path:
    """`tiny_task` as a folder that `--task` reads."""
    task = tiny_task()
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in (("train", task.train), ("test", task.test)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([example.fields["text"], example.label] for example in examples)
    return folder


def tiny_model(kind: str, folder: Path) -> Path:
    """A random two-layer model in `folder`, for --quick.

    Args:
        kind: "encoder" (a sentence encoder) or "causal" (Llama).
        folder: where its files go.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers.logging.disable_progress_bar()
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    vocabulary = dict.fromkeys([*specials.values(), *_WORDS])
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **specials)
    size = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "encoder":
            model: Any = transformers.BertModel(transformers.BertConfig(**size))
        else:
            config = transformers.LlamaConfig(
                **size, bos_token_id=2, eos_token_id=3, tie_word_embeddings=True
            )
            model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "encoder":
        (folder / "modules.json").write_text(json.dumps([{"type": "x.Transformer"}, {"type": "x.Pooling"}]))
    return folder
