"""Results as text for a terminal."""

from longrnn.bench.results import Row

_HEADINGS = {
    "recurrence": ("limit", "of_limit"),
    "block": ("limit", "of_limit"),
    "layers": ("products", "of_products"),
    "streaming": ("products", "of_products"),
    "skip": ("updates", "share"),
    "phased": ("open", "share"),
    "compose": ("µs a step", "us_per_step"),
    "newton": ("µs a step", "us_per_step"),
    "mux": ("of ideal", "of_ideal"),
}


def table(rows: list[Row]) -> tuple[str, list[str], list[list[str]]]:
    """Lay out the rows of one case and pass.

    Returns:
        A title, the headings of the columns, and the cells.
    """
    first = rows[0]
    baseline = next((r["baseline"] for r in rows if "baseline" in r), "the baseline")
    fraction, key = _HEADINGS[first["suite"]]
    headings = [
        "",
        "ms",
        "fastest",
        f"/ {baseline}",
        "(fastest)",
        fraction,
        "peer / it",
        "(fastest)",
        "error",
    ]
    if any("peak_mb" in row for row in rows):
        headings.append("peak MB")
    cells = []
    timed = [r for r in rows if r["status"] == "timed"]
    for row in sorted(timed, key=lambda r: float(r["median_ms"])):
        line = [
            row["contender"],
            number(row["median_ms"]),
            number(row["min_ms"]),
            number(row.get("ratio")),
            number(row.get("ratio_min")),
            number(row.get(key)),
            number(row.get("times_best_peer")),
            number(row.get("times_best_peer_min")),
            "" if row["error"] is None else f"{row['error']:.0e}",
        ]
        if "peak MB" in headings:
            line.append(number(row.get("peak_mb")))
        cells.append(line)
    return f"{first['suite']} {first['case']} {first['pass']}", headings, cells


def remarks(rows: list[Row]) -> list[str]:
    """A line for each contender that was not timed, and why."""
    lines = []
    for row in rows:
        if row["status"] == "absent":
            lines.append(row["note"])
        elif row["status"] != "timed":
            note = f": {row['note']}" if row["note"] else ""
            lines.append(f"{row['status']}: {row['contender']}{note}")
    return lines


def number(value: float | None) -> str:
    """Three digits that count; nothing for None."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
