"""How fast, against whom, and how far from what the machine can do: suites of measurements."""

from longrnn.bench.markdown import update_markdown
from longrnn.bench.published import MEASUREMENTS
from longrnn.bench.suites import SUITES, run_suite

__all__ = ["MEASUREMENTS", "SUITES", "run_suite", "update_markdown"]
