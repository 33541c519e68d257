"""What a run writes down while it goes: `metrics.jsonl` and TensorBoard."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from longrnn.train import files


class Metrics:
    """A log of one flat dict a line.

    Training lines have `step, epoch, loss, score, updates, steps_per_second, seconds`; evaluation
    lines have `step, epoch, test_loss, test_score, test_updates, test_seconds, test_solved,
    seconds`. Updates are those of a mean sequence. Seconds are those spent in training, and
    `test_seconds` what the network takes for a sequence of the held-out data. The loss is the
    task's, without what updates cost.

    Args:
        path: The JSON lines file.
        accelerator: Sends every line to its trackers too.
        step: The step that the run stands at. Training lines after it and evaluations from it on,
            left by a run that was killed, are dropped: they will come again.
    """

    def __init__(self, path: Path, accelerator: Accelerator, step: int):
        self.path, self.accelerator = path, accelerator
        if accelerator.is_main_process:
            kept = [line for line in read_metrics(path) if _final_from(line) <= step]
            files.write_atomically(path, b"".join(map(_encode, kept)))

    def write(self, **line: Any) -> None:
        """Log one line."""
        if self.accelerator.is_main_process:
            files.write(self.path, _encode(line), "ab")
        values = {k: v for k, v in line.items() if k not in ("step", "epoch")}
        self.accelerator.log(values, step=line["step"])

    def evaluations(self) -> list[dict[str, Any]]:
        """The evaluations so far."""
        return [line for line in read_metrics(self.path) if "test_loss" in line]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the log of a run; a last line that was cut off by a kill is passed over.

    A run that was stopped at once has written none.
    """
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _encode(line: dict[str, Any]) -> bytes:
    return (json.dumps(line) + "\n").encode()


def _final_from(line: dict[str, Any]) -> int:
    """The step from which on a run will not write this line again."""
    return line["step"] + ("test_loss" in line)
