"""Results as flat rows, one JSON line each: made from outcomes, written, found and read."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longrnn.bench.measure import Outcome

Row = dict[str, Any]


def rows(
    facts: Row,
    outcomes: list[Outcome],
    *,
    baseline: str,
    per_call: dict[str, float] | None = None,
) -> list[Row]:
    """Make one row of each outcome of a case.

    Args:
        facts: What is the same for the whole case; with `limit_ms` if it has a physical limit.
        outcomes: What became of each contender.
        baseline: The contender that ratios are taken to.
        per_call: Amounts of work a call, which become rates: {"gb_per_s": gigabytes}.

    Returns:
        Rows. `ratio` is the median over the baseline's, `ratio_min` the same of the minima;
        `times_best_peer` tells how many times faster than the best timed peer a contender is, and
        `times_best_peer_min` the same of the minima.
    """
    timed = {o.contender.name: o for o in outcomes if o.status == "timed"}
    peers = [o for o in timed.values() if o.contender.kind == "peer"]
    best = min(peers, key=lambda o: o.median, default=None)
    base = timed.get(baseline)
    made = []
    for outcome in outcomes:
        contender = outcome.contender
        row = {
            **facts,
            "contender": contender.name,
            "kind": contender.kind,
            "version": contender.version,
            "layout": contender.layout,
            "status": outcome.status,
            "note": outcome.note,
            "error": outcome.error if math.isfinite(outcome.error or 0.0) else None,
            "repeats": len(outcome.times),
        }
        if outcome.status == "timed":
            median, fastest = outcome.median, min(outcome.times)
            row["median_ms"] = 1e3 * median
            row["min_ms"], row["max_ms"] = 1e3 * fastest, 1e3 * max(outcome.times)
            if base is not None:
                row["baseline"] = baseline
                row["ratio"] = median / base.median
                row["ratio_min"] = fastest / min(base.times)
            if best is not None:
                row["best_peer"] = best.contender.name
                row["times_best_peer"] = best.median / median
                row["times_best_peer_min"] = min(min(o.times) for o in peers) / fastest
            if "limit_ms" in facts:
                row["of_limit"] = facts["limit_ms"] / (1e3 * median)
            for name, amount in (per_call or {}).items():
                row[name] = amount / median
        made.append(row)
    return made


def results_path(folder: str | Path, suite: str, device: str, date: str) -> Path:
    """Where the lines of a suite measured on a day are kept."""
    return Path(folder) / f"{suite}-{device}-{date}.jsonl"


def write(path: Path, lines: Iterable[Row]) -> None:
    """Append rows to a file of JSON lines, and make it and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def read(path: str | Path) -> list[Row]:
    """Read a file of JSON lines.

    Raises:
        ValueError: If a line is not a JSON object; the message tells its number.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} must be JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number} must be a JSON object, got {line[:40]!r}")
        found.append(row)
    return found


def newest(folder: str | Path, suite: str, device: str) -> Path | None:
    """The latest results file of a suite on a device."""
    return max(Path(folder).glob(f"{suite}-{device}-*.jsonl"), default=None)
