"""Several models on one task, with the same budget, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console

from longrnn.train import files
from longrnn.train.folder import unused
from longrnn.train.metrics import read_metrics
from longrnn.train.plot import plot_comparison
from longrnn.train.run import train
from longrnn.train.settings import CHARGES, SKIPPING, Settings, create_settings


def train_models(
    task: str,
    models: Sequence[str],
    output: Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    **given: Any,
) -> list[dict[str, Any]]:
    """Train one model, or several one after another with the same budget.

    One model has `output` as its run folder. Of several, each has the folder of its name under
    `output`, and `comparison.json` and `comparison.png` are left beside them; the speed-up of a
    model is its steps per second over those of `lstm`, or of the last if `lstm` is not there.
    What updates cost is for those of several models that choose their updates.

    Args:
        task: The task's name.
        models: Names of layers.
        output: Where to; a new folder under `runs` if None.
        resume: Go on with the runs in `output`.
        console: Where progress and warnings are shown.
        **given: Other settings, see `Settings`; None leaves the task's default.

    Returns:
        The summary of each run with its `folder` and, if there are several, its `speed_up`.

    Raises:
        ValueError: If a setting is not legal, and as `train`.
        OSError: As `train`.
    """
    runs = [create_settings(task, model, **_meant_for(model, models, given)) for model in models]
    if output is None:
        if resume:
            raise ValueError("output must name the run to resume, got none")
        output = _new_folder(runs)
    if len(runs) == 1:
        return [train(runs[0], output, resume, console) | {"folder": str(output)}]
    return compare(runs, output, resume, console)


def _meant_for(model: str, models: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that only other models of this comparison can have."""
    others = {"random_skip"} if model in SKIPPING else set(CHARGES)
    if not any((other in SKIPPING) != (model in SKIPPING) for other in models):
        others = set()
    return {name: value for name, value in given.items() if name not in others}


def _new_folder(runs: Sequence[Settings]) -> Path:
    """A folder name under `runs` that is not taken, the same in every process."""
    PartialState(cpu=runs[0].device == "cpu")
    name = "-".join([runs[0].task, *(settings.model for settings in runs)])
    return broadcast_object_list([unused(Path("runs") / name)])[0]


def compare(
    runs: Sequence[Settings], output: Path, resume: bool = False, console: Console | None = None
) -> list[dict[str, Any]]:
    """Train one model after another; see `train_models`."""
    names = [settings.model for settings in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"model must be given once each, got {', '.join(names)}")
    if resume and not output.is_dir():
        raise ValueError(f"output must hold runs to resume, got {output}")
    rows: list[dict[str, Any]] = []
    for settings in runs:
        folder = output / settings.model
        begun = (folder / "config.json").exists()
        rows.append(train(settings, folder, resume and begun, console) | {"folder": str(output)})
        if rows[-1]["interrupted"]:
            return rows
    baseline = next((row for row in rows if row["model"] == "lstm"), rows[-1])
    for row in rows:
        row["speed_up"] = row["steps_per_second"] / baseline["steps_per_second"]
    if PartialState().is_main_process:
        files.write_atomically(output / "comparison.json", files.to_json(rows))
        lines = {name: read_metrics(output / name / "metrics.jsonl") for name in names}
        plot_comparison(output / "comparison.png", lines, rows)
    return rows
