"""The run folder: begun once, and gone on with only by the same settings.

config.json  metrics.jsonl  tensorboard/  checkpoints/  curve.png  summary.json
"""

import dataclasses
import itertools
from pathlib import Path

from longrnn.train import files
from longrnn.train.settings import RESUMABLE, Settings


def begin(output: Path, settings: Settings) -> None:
    """Make a run folder with its `config.json`.

    Raises:
        ValueError: If `output` holds a run already, or is a file.
    """
    if (output / "config.json").exists():
        raise ValueError(
            f"output must be a new folder, got {output}, which holds a run: "
            "give --resume to go on with it"
        )
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder, got the file {output}")
    output.mkdir(parents=True, exist_ok=True)
    files.write_atomically(output / "config.json", files.to_json(dataclasses.asdict(settings)))


def check_same(output: Path, settings: Settings) -> None:
    """Raise ValueError unless `output` holds a run of these settings."""
    if not (output / "config.json").exists():
        raise ValueError(f"output must hold a run to resume, got {output} without config.json")
    config = files.read_json(output / "config.json")
    try:
        stored = dataclasses.asdict(Settings(**config))  # what it does not tell is the default
    except TypeError as error:
        raise ValueError(f"{output / 'config.json'} must hold settings: {error}") from error
    for name, value in dataclasses.asdict(settings).items():
        if name not in RESUMABLE and stored[name] != value:
            raise ValueError(
                f"{name} must be {stored[name]!r}, as when the run in {output} began, got {value!r}"
            )


def unused(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())
