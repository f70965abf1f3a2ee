"""The plot and the progress lines."""

from __future__ import annotations

import io
import math
import struct

import pytest
from rich.console import Console

from zokern.app.plots import learning_curve, smooth
from zokern.app.training.display import Display, format_duration


def rows(steps, evaluations):
    made = [{"kind": "step", "step": s, "loss": loss} for s, loss in steps]
    for step, accuracy in evaluations:
        evaluation = {"accuracy": accuracy, "calibrated_accuracy": 0.8, "majority": 0.5}
        made.append({"kind": "eval", "step": step, **evaluation})
    return made


@pytest.mark.parametrize(
    ("steps", "evaluations"),
    [
        ([(s, 1 / s) for s in range(1, 50)], [(0, 0.5), (25, 0.7), (49, 0.9)]),
        ([(1, None), (2, 0.5)], [(0, 1.0)]),
        ([(1, None)], []),
        ([], [(0, 0.5)]),
        ([], []),
    ],
)
@pytest.mark.parametrize("calibrated", [True, False])
def test_draws_whatever_a_run_has_so_far(tmp_path, steps, evaluations, calibrated):
    path = tmp_path / "curve.png"
    learning_curve(rows(steps, evaluations), path, "title", "note", calibrated)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1200, 720)
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_smoothing_is_the_mean_of_what_is_near():
    assert smooth([1.0, 2.0, 3.0, 4.0], 3) == [1.5, 2.0, 3.0, 3.5]
    assert smooth([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
    assert math.isnan(smooth([math.nan], 3)[0])
    assert smooth([], 3) == []


def test_durations_read_well():
    cases = {0.04: "0.0 s", 9.94: "9.9 s", 42: "42 s", 185: "3 min 05 s", 7800: "2 h 10 min"}
    assert {seconds: format_duration(seconds) for seconds in cases} == cases


def drive(terminal):
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=terminal, width=120)
    display = Display(console=console)
    with display.bytes_bar("fetching thing") as update:
        update(50, 100)
        update(100, 100)
    with display.counter("testing", 10) as advance:
        advance(10)
    with display.steps(20, 0) as line:
        for step in range(1, 21):
            line.update(step, 0.5 if step != 7 else math.nan, 0.01, 0.002)
    return buffer.getvalue()


def test_elsewhere_than_a_terminal_a_line_now_and_then():
    text = drive(terminal=False)
    assert "\x1b" not in text
    assert text.count("steps/s") == 10
    assert "step 20/20" in text and "loss 0.5000" in text and "outside forwards 20.0 %" in text
    assert "fetching thing (0.0 MB)" in text


def test_on_a_terminal_a_live_line():
    text = drive(terminal=True)
    assert "\x1b" in text
    assert "20/20" in text and "outside forwards 20.0 %" in text


def test_quiet_shows_nothing_but_tables():
    buffer = io.StringIO()
    display = Display(quiet=True, console=Console(file=buffer, width=80))
    display.say("hello")
    display.facts([("a", "b")])
    with display.steps(2, 0) as line:
        line.update(1, 0.5, 0.1, 0.0)
    assert buffer.getvalue() == ""
    display.table("t", ("", "x"), [("row", "1")])
    assert "row" in buffer.getvalue()
