"""Published measurements of speed, to be made again: `longrnn reproduce` lists them, too."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from longrnn.bench import mux, mux_report, results
from longrnn.bench.markdown import latest
from longrnn.bench.mux_report import Table
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
    ) -> None:
        """Measure the cases that the files of a folder do not hold, and append the lines to one.

        Quick takes a tenth of the time.
        """
        seconds = _QUICK_SECONDS if quick else _SECONDS
        done = {r["case"] for r in self._rows(folder) if r.get("seconds", 0.0) >= seconds}
        wanted = [case for case in mux.cases("cpu") if case.group in self.groups]
        for group in dict.fromkeys(case.group for case in wanted if str(case) not in done):
            run_suite(
                "mux", folder, only=group, seconds=seconds, cap=_CAP, skip=done, on_rows=on_rows
            )

    def tables(self, folder: Path) -> list[Table]:
        """What the files of a folder hold of it."""
        return mux_report.tables(self._rows(folder))

    def draw(self, folder: Path) -> list[Path]:
        """Draw what the files of a folder hold of it, there; return the pictures."""
        return mux_report.plot(self._rows(folder), folder)

    def _rows(self, folder: Path) -> list[Row]:
        """What was timed, of cases that were measured to their end."""
        files = sorted(folder.glob("mux-cpu-*.jsonl"))
        rows = latest([row for file in files for row in results.read(file)])
        done = {r["case"] for r in rows if r.get("pass") == "training" and "seconds" in r}
        return [
            row
            for row in rows
            if row["status"] == "timed" and row["group"] in self.groups and row["case"] in done
        ]


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
