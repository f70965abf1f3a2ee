"""Renews README.md from the results and lists the scripts."""

from .common import FOLDER, write_index

write_index()
for script in sorted(FOLDER.glob("*.py")):
    text = script.read_text()
    if "\ndef main(" in text:
        print(f"python -m benchmarks.papers.{script.stem}: {text.splitlines()[0].strip('r' + chr(34))}")
