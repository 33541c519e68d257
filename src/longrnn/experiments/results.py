"""Result lines: one finished run each, in a file of JSON lines that is replaced as a whole."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from longrnn.experiments.experiment import Line
from longrnn.train import Settings, files
from longrnn.train.settings import RESUMABLE


def identity(settings: Settings) -> dict[str, Any]:
    """The settings that decide what a run learns; how long it may take is not among them."""
    everything = dataclasses.asdict(settings)
    return {name: value for name, value in everything.items() if name not in RESUMABLE}


def read(path: Path) -> list[Line]:
    """All lines of a file; none if there is no file.

    Raises:
        ValueError: If a line is not JSON.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path} line {number} must be JSON: {error}") from error
    return lines


def find(lines: list[Line], case: str, settings: Settings) -> Line | None:
    """The line of a run that is finished: solved and shown, or as long as is asked for now."""
    for line in lines:
        # Settings that came with a later version have their default in an older line.
        same = line["case"] == case and identity(_settings(line)) == identity(settings)
        if same and (line["shown"] or line["minutes"] >= settings.minutes):
            return line
    return None


def put(path: Path, line: Line) -> None:
    """Add a line, in the place of an earlier one of the same run."""
    own = (line["case"], identity(_settings(line)))
    kept = [old for old in read(path) if (old["case"], identity(_settings(old))) != own]
    content = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in [*kept, line])
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content.encode())


def _settings(line: Line) -> Settings:
    return Settings(**line["settings"])
