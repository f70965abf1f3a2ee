"""Tiny models of six families, tiny tokenizers and a tiny sentiment data set, made from nothing."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing

from zokern.app.tasks import Example, TextTask
from zokern.app.training import Display

transformers = pytest.importorskip("transformers", reason="zokern[train] is not installed")
pytest.importorskip("peft", reason="zokern[train] is not installed")

GOOD = ["lovely", "bright", "moving", "clever", "warm"]
BAD = ["dull", "empty", "noisy", "clumsy", "cold"]
FILLER = ["the", "film", "story", "was", "a", "bit", "and", "very", "long", "short", "plot", "cast"]
WORDS = ("terrible", "great")

CAUSAL = ["llama", "opt", "gpt2"]
MASKED = ["roberta", "bert", "distilbert"]
FAMILIES = CAUSAL + MASKED


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentences(n: int, seed: int) -> list[Example]:
    """Sentences whose class is decided by one word."""
    draw = random.Random(seed)
    examples = []
    for i in range(n):
        words = draw.choices(FILLER, k=draw.randrange(3, 12))
        words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[i % 2]))
        examples.append(Example({"text": " ".join(words)}, i % 2))
    return examples


def tiny_task(**changes: Any) -> TextTask:
    values = {
        "name": "tiny",
        "labels": ("negative", "positive"),
        "source": "made up",
        "train": sentences(48, 1),
        "test": sentences(24, 2),
        "prompt": "the film review was as follows and it said : {text}",
        "answer": "It was",
        "label_words": WORDS,
    }
    return TextTask(**{**values, **changes})


@pytest.fixture
def task() -> TextTask:
    return tiny_task()


def _bpe_tokenizer(folder: Path) -> Any:
    """Byte-level, as GPT-2, OPT, RoBERTa and SmolLM have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", "<mask>", "<unk>"]
    text = [" ".join([*GOOD, *BAD, *FILLER, *WORDS, "It", "review", "said"])] * 50
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        unk_token="<unk>",
    )


def _wordpiece_tokenizer(folder: Path) -> Any:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ":", "it", "review", "as", "said"]
    vocab += ["follows", "terr", "##ific", *GOOD, *BAD, *FILLER, *WORDS]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocab)))
    return transformers.BertTokenizerFast(str(folder / "vocab.txt"))


def make_model(family: str, folder: Path) -> Path:
    """A randomly initialised model and its tokenizer in `folder`, as `save_pretrained` leaves them."""
    folder.mkdir(parents=True)
    wordpiece = family in ("bert", "distilbert")
    tokenizer = (_wordpiece_tokenizer if wordpiece else _bpe_tokenizer)(folder)
    size = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    usual = {
        **size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    }
    t = transformers
    config, auto = {
        "llama": lambda: (
            t.LlamaConfig(
                **usual,
                **ends,
                intermediate_size=48,
                num_key_value_heads=2,
                tie_word_embeddings=True,
            ),
            t.LlamaForCausalLM,
        ),
        "opt": lambda: (
            t.OPTConfig(**usual, **ends, ffn_dim=48, word_embed_proj_dim=16),
            t.OPTForCausalLM,
        ),
        "gpt2": lambda: (
            t.GPT2Config(**size, **ends, n_embd=32, n_layer=2, n_head=4, n_positions=128),
            t.GPT2LMHeadModel,
        ),
        "roberta": lambda: (
            t.RobertaConfig(**{**usual, "max_position_embeddings": 130}, **ends, intermediate_size=48),
            t.RobertaForMaskedLM,
        ),
        "bert": lambda: (t.BertConfig(**usual, intermediate_size=48), t.BertForMaskedLM),
        "distilbert": lambda: (
            t.DistilBertConfig(**size, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
            t.DistilBertForMaskedLM,
        ),
    }[family]()
    config.initializer_range = config.init_std = 0.2  # so that logits differ visibly
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = auto(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Callable[[str], Path]:
    """family -> folder with a tiny model, made once."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = make_model(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """A local data set: train.csv and test.csv with the columns text and label."""
    folder = tmp_path_factory.mktemp("data")
    for name, n, seed in (("train", 48, 1), ("test", 24, 2)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows([e.fields["text"], e.label] for e in sentences(n, seed))
    return folder


@pytest.fixture
def quiet() -> Display:
    """A display that prints into a string."""
    from rich.console import Console

    return Display(console=Console(file=io.StringIO(), width=100))


def as_version_1(folder: Path) -> None:
    """Makes a run's folder what earlier releases wrote: no first line, no checksums."""
    for name in ("steps.jsonl", "metrics.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        rows = [{k: v for k, v in row.items() if k not in ("check", "skipped")} for row in rows]
        lines = [json.dumps(row) + "\n" for row in rows if "options" not in row]
        (folder / name).write_text("".join(lines))
    config = json.loads((folder / "config.json").read_text())
    del config["format"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    path = folder / "checkpoint.pt"
    if path.exists():
        content = torch.load(path, weights_only=True)
        del content["log"]
        torch.save(content, path)


@pytest.fixture
def cli(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Runs the command line in a fresh folder with a fresh cache; returns click's result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOKERN_CACHE", str(tmp_path / "cache"))
    from zokern.app.cli import app

    def run(*arguments: object) -> Any:
        result = typer.testing.CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
