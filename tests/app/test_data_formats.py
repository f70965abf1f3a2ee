"""What is in a local file is what is trained on: formats, quoting, encodings, line ends, ragged rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zokern.app.tasks import UserError, load_task
from zokern.app.tasks.delimited import count_lines, read_delimited

from .data_files import WORDS_AS_TEXT, WRITERS, found, labelled, written_csv, written_parquet
from .test_cli import refuses


@pytest.mark.parametrize("kind", WRITERS)
def test_words_and_numbers_are_text_in_every_format(tmp_path, kind):
    rows = labelled(WORDS_AS_TEXT)
    path = WRITERS[kind](tmp_path / f"data.{kind}", rows)
    assert found(load_task(str(path))) == Counter(rows)


def test_quotes_of_a_tsv_are_letters(tmp_path):
    # A csv reader takes line 2 to line 9 for one cell: 20 lines became 14 examples.
    begins = ['"' if i in (0, 7, 12) else "" for i in range(20)]
    ends = [' and "so"' if i % 4 else ' at 5"' for i in range(20)]
    texts = [f"{begins[i]}line {i} says{ends[i]}" for i in range(20)]
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)))
    wanted = Counter((text, str(i % 2)) for i, text in enumerate(texts))
    task = load_task(str(path))
    assert found(task) == wanted
    assert "no quoting" in task.data.train.sources[0]


@pytest.mark.parametrize(
    ("quoting", "texts"),
    [
        (csv.QUOTE_ALL, ["plain", "two\nlines", "a\ttab", 'a "quote"', '"', ""]),
        (csv.QUOTE_MINIMAL, ["plain", "two\nlines", 'a "quote"', "other"]),
        (csv.QUOTE_MINIMAL, ["plain", "a\ttab", "other"]),
        (csv.QUOTE_MINIMAL, ["plain", 'he said "no"', "other"]),
        (csv.QUOTE_NONNUMERIC, ["plain", '"', "other"]),
    ],
    ids=["all", "lines", "tabs", "doubled", "texts"],
)
def test_a_tsv_with_quoting_is_told_by_its_header_or_its_cells(tmp_path, quoting, texts):
    rows = labelled(texts)
    path = written_csv(tmp_path / "data.tsv", rows, delimiter="\t", quoting=quoting)
    task = load_task(str(path))
    assert found(task) == Counter(rows)
    assert "RFC 4180" in task.data.train.sources[0]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "unended"])
def test_lines_end_in_lf_crlf_or_cr(tmp_path, kind, ends, last):
    rows = labelled([f"text {i}" for i in range(9)])
    content = WRITERS[kind](tmp_path / f"data.{kind}", rows).read_text()
    content = content if last else content.rstrip("\n")
    (tmp_path / f"data.{kind}").write_bytes(content.replace("\n", ends).encode())
    assert found(load_task(str(tmp_path / f"data.{kind}"))) == Counter(rows)


def test_a_csv_cell_keeps_its_line_ends(tmp_path):
    rows = labelled(["a\nb", "a\r\nb", "a\rb", "plain", "\n"])
    path = written_csv(tmp_path / "data.csv", rows, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    assert found(load_task(str(path))) == Counter(rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(st.sampled_from('ab ,\t"\n\r;0é'), max_size=6), min_size=2, max_size=2)))
def test_a_csv_is_read_as_it_was_written(rows):
    sheet = io.StringIO(newline="")
    csv.writer(sheet, quoting=csv.QUOTE_ALL).writerows([["text", "label"], *rows])
    text = sheet.getvalue()
    table = read_delimited(text, "x.csv", False, "utf-8")
    assert [list(table.cells(0)), list(table.cells(1))] == [[row[i] for row in rows] for i in (0, 1)]
    # rows counted independently: line ends outside quotes
    assert len(table.places) + 1 == sum(part.count("\r\n") for part in text.split('"')[::2])
    assert count_lines(text) == len(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, kind, codec):
    rows = labelled(["Grüße", "日本", "\U0001f600", "plain"])
    path = WRITERS[kind](tmp_path / f"data.{kind}", rows)
    path.write_bytes(path.read_text("utf-8").encode(codec))
    assert found(load_task(str(path))) == Counter(rows)


@pytest.mark.parametrize("codec", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "shift_jis"])
def test_an_encoding_can_be_named(tmp_path, codec):
    rows = labelled(["日本", "plain"] if codec == "shift_jis" else ["Grüße", "plain"])
    path = written_csv(tmp_path / "data.csv", rows)
    path.write_bytes(path.read_text("utf-8").encode(codec))
    assert found(load_task(str(path), encoding=codec)) == Counter(rows)


def test_bytes_that_are_no_text_are_named(cli, tmp_path):
    content = "text,label\nplain,0\ncafé,1\n".encode("latin-1")
    (tmp_path / "data.csv").write_bytes(content)
    place = content.index(b"\xe9")
    refuses(cli("train", "--task", "data.csv"), "data.csv", f"0xE9 at offset {place} (line 3)", "--encoding")
    refuses(cli("train", "--task", "data.csv", "--encoding", "utf8x"), "--encoding 'utf8x'")
    refuses(cli("train", "--task", "data.csv", "--encoding", "hex"), "--encoding 'hex'")
    refuses(cli("train", "--task", "digits", "--encoding", "latin-1"), "--encoding", "digits")
    (tmp_path / "marked.csv").write_bytes("text,label\na,1\n".encode("utf-16"))
    refuses(cli("train", "--task", "marked.csv", "--encoding", "cp1252"), "marked.csv", "utf-16", "cp1252")
    written_parquet(tmp_path / "data.parquet", [("a", "0"), ("b", "1")])
    refuses(cli("train", "--task", "data.parquet", "--encoding", "cp1252"), "--encoding", "data.parquet")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "text,label\na,1\nb,c,0\nd\n", ["a.csv", "line 3 has 3", "line 4 has 1", "2 cells"]),
        ("a.tsv", "text\tlabel\na\t1\nb\tc\t0\n", ["a.tsv", "line 3 has 3", "2 cells (text, label)"]),
        ("a.csv", 'text,label\n"a,1\nb,0\n', ["a.csv", "line 2", "no closing quote"]),
        ("a.csv", 'text,label\na,0\n"b"c,1\n', ["a.csv", "line 3", "closing quote", "written twice"]),
        ("a.csv", 'text,label\na,0\n"x\ny"c,1\n', ["a.csv line 4, in the row from line 3"]),
        ("a.csv", "text,label\na\0b,1\nc,0\n", ["a.csv line 2", "NUL"]),
        ("a.csv", "text;label\na;1\nb;0\n", ["a.csv line 1", "'text;label'", "';'"]),
        ("a.csv", "text,label\n", ["a.csv has no rows"]),
        ("a.csv", "", ["a.csv is empty"]),
        ("a.csv", "\n \n", ["a.csv is empty"]),
        ("a.csv", ",,\na,1,2\n", ["a.csv line 1", "no names"]),
        ("a.csv", "text,text,label\na,b,1\nc,d,0\n", ["a.csv", "2 columns 'text' (columns 1, 2)"]),
        ("a.csv", "text,label,label \na,b,1\nc,d,0\n", ["a.csv", "label"]),
        ("a.jsonl", "", ["a.jsonl is empty"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n{oops\n', ["a.jsonl line 2 is not json", "character 2"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n3\n', ["a.jsonl line 3", "the number 3"]),
        ("a.jsonl", '{"text": "a", "label": 1, "text": "b"}\n', ["a.jsonl line 1", "'text' stands twice"]),
        ("a.json", '[{"text": "a", "label": 1}, ["b"]]', ["a.json row 2", "an array"]),
        ("a.json", "[]", ["a.json has no rows"]),
        ("a.json", '{"text": [], "label": []}', ["a.json has no rows"]),
        ("a.csv", "label\na\nb\n", ["no text column beside 'label'"]),
        ("a.json", '{"text": ["a", "b"], "label": [1]}', ["a.json", "differ in length", "'label' 1"]),
        ("a.json", '[{"text": "a",\n "label": 1}, oops]', ["a.json line 2 is not json"]),
        (
            "a.jsonl",
            '{"text": ["x"], "label": 1}\n{"text": "b", "label": 0}\n',
            ["a.jsonl line 1", "'text'", "list"],
        ),
        (
            "a.jsonl",
            '{"text": "b", "label": {"x": 0}}\n{"text": "a", "label": 0}\n',
            ["a.jsonl line 1", "'label'"],
        ),
        ("a.json", "[" * 100_000, ["a.json", "nested too deeply"]),
        ("a.parquet", "no parquet", ["a.parquet is no parquet file"]),
        ("a.csv.gz", "no gzip", ["a.csv.gz cannot be unpacked"]),
        ("a.xlsx", "x", ["a.xlsx is no data file", ".csv"]),
        ("data", "x", ["data is no data file"]),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 10 else "",
)
def test_what_cannot_be_read_is_named_with_its_place(cli, tmp_path, name, content, parts):
    (tmp_path / name).write_text(content, newline="")
    refuses(cli("train", "--task", f"./{name}"), *parts)


def test_a_file_that_is_not_there_is_no_hub_id(cli, tmp_path):
    refuses(cli("train", "--task", "./data.csv"), "no file or folder ./data.csv")
    refuses(cli("train", "--task", "some/data.csv"), "no file or folder some/data.csv")
    refuses(cli("train", "--task", "/no/such/folder"), "no file or folder /no/such/folder")
    refuses(cli("train", "--task", "~nobody-of-that-name/x"), "no file or folder ~nobody-of-that-name/x")


def test_many_ragged_rows_are_a_short_list_with_a_total(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\n" + "a,1,x\n" * 30)
    with pytest.raises(UserError, match=r"line 2 has 3, .*line 6 has 3 and 25 more"):
        load_task(str(path))


def test_empty_lines_and_cells_behind_the_last_column_are_no_rows(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("\ntext,label,,\n\na,0,,\n  \nb,1\nc,0,\n\n")
    task = load_task(str(path))
    assert found(task) == Counter([("a", "0"), ("b", "1"), ("c", "0")])
    assert "noted 4: empty lines, which are no rows (data.csv line 1," in " ".join(task.data.lines())
    assert "columns without a name are left out: 3, 4" in " ".join(task.data.lines())


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_text_may_be_long(tmp_path, kind):
    rows = labelled(["x" * 1_000_000, "y" * 140_000, "short"])
    before = csv.field_size_limit()
    assert found(load_task(str(WRITERS[kind](tmp_path / f"data.{kind}", rows)))) == Counter(rows)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(("end", "pack"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_text_files_may_be_packed(tmp_path, kind, end, pack):
    rows = labelled(WORDS_AS_TEXT)
    content = WRITERS[kind](tmp_path / f"data.{kind}", rows).read_bytes()
    (tmp_path / f"packed.{kind.upper()}.{end}").write_bytes(pack.compress(content))
    assert found(load_task(str(tmp_path / f"packed.{kind.upper()}.{end}"))) == Counter(rows)


def test_numbers_and_missing_values_of_json(tmp_path):
    lines = ['{"text": 0, "label": 0}', '{"text": 1e5, "label": 1}', '{"text": 1.50, "label": 0}']
    lines += [
        '{"text": true, "label": 1}',
        '{"text": null, "label": 0}',
        '{"label": 1}',
        '{"text": "", "label": 0}',
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    task = load_task(str(tmp_path / "data.jsonl"))
    texts = ["0", "1e5", "1.50", "True", "", "", ""]
    assert found(task) == Counter((text, "01"[i % 2]) for i, text in enumerate(texts))
    said = " ".join(task.data.lines())
    assert (
        "changed 2: nothing in 'text', read as an empty text (data.jsonl line 5, data.jsonl line 6)" in said
    )
    assert "noted 1: empty text in 'text' (data.jsonl line 7)" in said


def test_half_a_surrogate_pair_is_replaced_and_named(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "a\\ud83d", "label": 0}\n{"text": "b", "label": 1}\n')
    task = load_task(str(tmp_path / "data.jsonl"))
    assert found(task) == Counter([("a\ufffd", "0"), ("b", "1")])
    assert "half a surrogate pair in 'text', now U+FFFD (data.jsonl line 1)" in " ".join(task.data.lines())


def test_columns_of_json_and_of_parquet_numbers(tmp_path):
    columns = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    (tmp_path / "data.json").write_text(json.dumps(columns))
    wanted = Counter(zip(columns["text"], map(str, columns["label"])))
    assert found(load_task(str(tmp_path / "data.json"))) == wanted
    written_parquet(tmp_path / "data.parquet", [(0, "x"), (7, "y"), (None, "x"), (1 << 60, "y")])
    numbers = Counter([("0", "x"), ("7", "y"), ("", "x"), (str(1 << 60), "y")])
    assert found(load_task(str(tmp_path / "data.parquet"))) == numbers
