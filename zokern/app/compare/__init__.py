"""`zokern compare`: methods x tunings x seeds on one model and task, at equal forward passes.

options.py    what is asked for
plan.py       what to run: "mezo:lora,fo-adamw:full" and a budget become runs with their steps
baselines.py  what needs no optimizer: zero-shot, in-context learning, linear probing
child.py      one run in a process of its own
runner.py     the runs one after the other, what is finished read back
grid.py       how far the runs are
table.py      means over seeds, as Markdown, CSV and JSON lines
figure.py     the learning curves
"""

from zokern.app.compare.options import CompareOptions
from zokern.app.compare.runner import run_comparison

__all__ = ["CompareOptions", "run_comparison"]
