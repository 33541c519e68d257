"""Published measurements of speed, to be made again: `longrnn reproduce` lists them, too."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from longrnn.bench import mux_report, results
from longrnn.bench.markdown import latest
from longrnn.bench.results import Row
from longrnn.bench.suites import run_suite

_SECONDS, _QUICK_SECONDS = 20.0, 2.0  # a case and pass
_CAP = 15.0  # seconds; PackedSequences of PyTorch's layers take as long


@dataclass(frozen=True)
class Measurement:
    """A published measurement, as cases of the mux suite.

    Attributes:
        name: What `longrnn reproduce` calls it.
        summary: One line that says what it shows.
        reference: Where it was published.
        groups: Of the suite's cases.
        published: What was published, to stand below ours.
    """

    name: str
    summary: str
    reference: str
    groups: tuple[str, ...]
    published: str

    def run(
        self, folder: Path, quick: bool, on_rows: Callable[[list[Row]], None] = lambda rows: None
    ) -> Path:
        """Measure, and append the lines to a file in a folder; quick takes a tenth of the time."""
        for group in self.groups:
            path = run_suite(
                "mux",
                folder,
                only=group,
                seconds=_QUICK_SECONDS if quick else _SECONDS,
                cap=_CAP,
                on_rows=on_rows,
            )
        return path

    def tables(self, path: Path) -> list[tuple[str, list[str], list[list[str]]]]:
        """Titles, headings and cells of what a file holds of it."""
        rows = [row for row in latest(results.read(path)) if row.get("group") in self.groups]
        return mux_report.speed_ups([row for row in rows if row["status"] == "timed"])

    def draw(self, path: Path, folder: Path) -> list[Path]:
        """Draw what a file holds of it; return the pictures."""
        rows = [row for row in latest(results.read(path)) if row.get("group") in self.groups]
        return mux_report.plot(rows, folder)


MEASUREMENTS: dict[str, Measurement] = {
    measurement.name: measurement
    for measurement in (
        Measurement(
            "mux-notebook",
            "Unrolled graphs of six lengths are 1.67 times faster than one of 100 steps",
            "MuxUnroll, test.ipynb",
            ("notebook",),
            "published: 221 s padded, 132 s by buckets 1, 21, 41, 61, 81, 100: 1.67 times faster, "
            "where 1.672 is the ideal for lengths uniform in 1 to 100",
        ),
        Measurement(
            "mux-layers",
            "Every layer on lengths uniform to 100 and log-normal to 5,000, in every way to batch",
            "nothing was published: the original had one layer",
            ("uniform", "lognormal"),
            "",
        ),
    )
}
