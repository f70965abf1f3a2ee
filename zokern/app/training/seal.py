"""What ties a run's files together: config.json is sealed in the first line of steps.jsonl.

    {"format": 2, "config": {"options": "<SHA-256>", "data": "<SHA-256>", ...}, "options": {...}, "check": "..."}

A resumed run with another number of steps adds such a line. The copy of the options names the one that was
changed in config.json. `out` is left out of both: a run's folder may be moved.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from zokern.app.fields import flag
from zokern.app.tasks import UserError, explain_os_error
from zokern.app.training.checkpoint import CHECKPOINT
from zokern.app.training.folder import CONFIG, METRICS, STEPS, Folder
from zokern.app.training.log import LineLog, MetricRows

__all__ = ["FORMAT", "open_logs", "seal_line"]

FORMAT = 2
_START = "steps"


def seal_line(config: dict[str, Any]) -> dict[str, Any]:
    """The line of steps.jsonl that seals a config."""
    sealed = _sealed(config)
    hashes = {name: hashlib.sha256(_text(value).encode()).hexdigest() for name, value in sealed.items()}
    return {"format": FORMAT, "config": hashes, "options": sealed["options"]}


def _sealed(config: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in config["options"].items() if name != "out"}
    return json.loads(_text({**config, "options": options}))  # type: ignore[no-any-return]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def open_logs(folder: Folder, config: dict[str, Any]) -> tuple[LineLog, LineLog, dict[str, Any]]:
    """The logs of steps and metrics, and the config as the log of steps has it.

    Nothing is written, but for a config.json that a kill left behind the log.

    Raises:
        UserError: the log of steps is damaged, or config.json is not what it seals.
    """
    path = folder.file(STEPS)
    if config.get("format", 1) == 1 and not _begins_with_seal(folder):
        metrics = LineLog(folder.file(METRICS), row_is_good=MetricRows(), keep_whole_lines=True)
        return LineLog(path), metrics, config
    if config.get("format") not in (None, FORMAT):
        raise UserError(
            f"{folder.file(CONFIG)} is of format {config['format']!r}, and this version of zokern knows those up to "
            f"{FORMAT}."
        )
    steps = LineLog(path, _START)
    if not _seals(steps):
        if folder.file(METRICS).exists() or folder.file(CHECKPOINT).exists():
            raise UserError(
                f"{path} is {'empty' if path.exists() else 'missing'}: the steps that the run took cannot be told, "
                "nor its options checked. Nothing was changed. Put the file back, or start over with --overwrite."
            )
        steps.append(seal_line(config))  # the run was killed before its first line
        steps = steps.again()
    config = _checked(folder, config, steps)
    metrics = LineLog(folder.file(METRICS), steps.first, False, MetricRows(), keep_whole_lines=True)
    return steps, metrics, config


def _seals(steps: LineLog) -> list[dict[str, Any]]:
    return [row for row in steps.rows if "options" in row]


def _begins_with_seal(folder: Folder) -> bool:
    """Whether the log of steps is sealed, whatever config.json says of it."""
    path = folder.file(STEPS)
    try:
        with open(path, "rb") as file:
            return b'"format"' in file.readline(1 << 20)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise explain_os_error(error, f"reading {path}") from None


def _checked(folder: Folder, config: dict[str, Any], steps: LineLog) -> dict[str, Any]:
    seals, found = _seals(steps), seal_line(config)
    then = seals[-1]
    if found == then:
        return config
    if found in seals:  # a kill came between the log's line and config.json
        config = {**config, "options": {**then["options"], "out": config["options"].get("out")}}
        folder.write_json(CONFIG, config)
        return config
    changed = [
        f"{flag(name)} is {_shown(found['options'], name)}, and the run was begun with {_shown(then['options'], name)}"
        for name in sorted({*found["options"], *then["options"]})
        if _shown(found["options"], name) != _shown(then["options"], name)
    ] or [
        f"{name!r} is not what it was"
        for name in sorted({*found["config"], *then["config"]})
        if found["config"].get(name) != then["config"].get(name)
    ]
    raise UserError(
        f"{folder.file(CONFIG)} is not the one that {steps.path} seals: {'; '.join(changed)}. Nothing was written. "
        "Put it back to continue the run; with other options start another run."
    )


def _shown(options: dict[str, Any], name: str) -> str:
    return _text(options[name]) if name in options else "missing"
