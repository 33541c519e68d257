"""Results as Markdown tables, and where they are pasted into a file."""

import re
from collections.abc import Callable
from pathlib import Path

from longrnn.bench import mux_report, results
from longrnn.bench.report import number
from longrnn.bench.results import Row
from longrnn.bench.scans import OURS

_PARENTS = {"phased-gilr-lstm": "phased-lstm", "skip-gilr-lstm": "skip-lstm"}
_MARKED = re.compile(r"(<!-- bench:(\w+)(?: (cpu|cuda))? -->\n).*?(<!-- /bench -->)", re.DOTALL)


def update_markdown(path: str | Path, folder: str | Path = "benchmarks/results") -> list[Path]:
    """Redraw the tables of a Markdown file from the newest results.

    What stands between `<!-- bench:SUITE -->` (or `<!-- bench:SUITE cuda -->`) and
    `<!-- /bench -->` is replaced; a second time changes nothing.

    Args:
        path: The Markdown file.
        folder: Where the results are kept.

    Returns:
        The results that were drawn.

    Raises:
        ValueError: If the file has no such marks, a mark names no suite, or a suite no results.
    """
    text = Path(path).read_text(encoding="utf-8")
    drawn: list[Path] = []

    def draw(mark: re.Match[str]) -> str:
        opening, suite, device, closing = mark.groups()
        if suite not in _TABLES:
            raise ValueError(f"{path} must mark one of {', '.join(_TABLES)}, got bench:{suite}")
        source = results.newest(folder, suite, device or "cpu")
        if source is None:
            raise ValueError(f"{folder} must hold results of {suite}: run longrnn bench {suite}")
        drawn.append(source)
        return f"{opening}{markdown(results.read(source))}\n{closing}"

    new = _MARKED.sub(draw, text)
    if not drawn:
        raise ValueError(f"{path} must hold <!-- bench:SUITE --> and <!-- /bench -->, got neither")
    Path(path).write_text(new, encoding="utf-8")
    return drawn


def markdown(rows: list[Row]) -> str:
    """Draw the tables of one suite, and name the machine and the cases where a peer wins."""
    rows = latest(rows)
    timed = [row for row in rows if row.get("status") == "timed"]
    if not timed:
        raise ValueError("rows must hold a timed contender, got none")
    parts = _TABLES[timed[0]["suite"]](timed)
    lost = [
        f"{r['case']} {r['pass']} ({r['contender']} takes {number(1 / r['times_best_peer'])} × "
        f"{r['best_peer']})"
        for r in timed
        if r["contender"] == OURS and r.get("times_best_peer", 1) < 1
    ]
    if lost:
        parts.append(f"A peer is faster at: {'; '.join(lost)}.")
    return "\n\n".join([*parts, machine_line(timed[-1])])


def latest(rows: list[Row]) -> list[Row]:
    """Of rows that measure the same thing, the last."""
    keyed = {(r["suite"], r["case"], r.get("pass"), r["contender"]): r for r in rows}
    return list(keyed.values())


def machine_line(row: Row) -> str:
    """Where a row was measured, in one sentence."""
    what = row["gpu"] or f"{row['cpu']}, {row['threads']} of {row['cores']} cores"
    return (
        f"Measured {row['date']} on {what}; torch {row['torch']}; kernels: {row['kernels']}; "
        f"transparent huge pages: {row['huge_pages']}; medians of interleaved runs."
    )


def grid(headings: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *(["---:"] * (len(headings) - 1))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *lines))


def _recurrence(rows: list[Row]) -> list[str]:
    parts = []
    for name, title in (("forward", "Forward"), ("training", "Forward and backward")):
        lines = []
        for ours in rows:
            if ours["contender"] != OURS or ours["pass"] != name:
                continue
            lines.append(
                [
                    ours["case"],
                    number(ours["median_ms"]),
                    number(ours.get("ratio")),
                    number(ours["of_limit"]),
                    ours.get("best_peer", "none"),
                    number(ours.get("times_best_peer")),
                ]
            )
        than = f"/ {rows[0]['baseline']}"
        headings = [title, "ms", than, "of the limit", "best peer", "peer / ours"]
        if lines:
            parts.append(grid(headings, lines))
    return parts


def _layers(rows: list[Row]) -> list[str]:
    parts = []
    for case in dict.fromkeys(r["case"] for r in rows if r["group"] == "default"):
        lines = []
        here = [r for r in rows if r["case"] == case and r["kind"] != "products"]
        trained = {r["contender"]: r for r in here if r["pass"] == "training"}
        run = {r["contender"]: r for r in here if r["pass"] == "forward"}
        for name, row in sorted(trained.items(), key=lambda item: float(item[1]["median_ms"])):
            lines.append(
                [
                    name,
                    number(row["median_ms"]),
                    _faster(row),
                    number(row.get("of_products")),
                    number(row.get("peak_mb")),
                    number(run[name]["median_ms"]) if name in run else "",
                ]
            )
        headings = [
            case,
            "training ms",
            "times nn.LSTM",
            "products / time",
            "peak MB",
            "forward ms",
        ]
        parts.append(grid(headings, lines))
    return parts


def _streaming(rows: list[Row]) -> list[str]:
    steps = sorted({r["T"] for r in rows})
    names = dict.fromkeys(r["contender"] for r in rows if r["kind"] != "products")
    by_name = {(r["contender"], r["T"]): r for r in rows}
    lines = []
    for name in names:
        found = [by_name.get((name, T)) for T in steps]
        first = found[0]
        lines.append(
            [
                name,
                *(number(row["us_per_step"]) if row else "" for row in found),
                _faster(first) if first else "",
            ]
        )
    return [
        grid(["µs a step", *(f"pieces of {T}" for T in steps), "times nn.LSTM, one step"], lines)
    ]


def _share(rows: list[Row]) -> list[str]:
    parts = []
    for name, title in (("forward", "Forward"), ("training", "Training step")):
        here = [r for r in rows if r["pass"] == name]
        names = [n for n in dict.fromkeys(r["contender"] for r in here) if n != "nn.LSTM"]
        by_case = {(r["case"], r["contender"]): r for r in here}
        lines = []
        for row in (r for r in here if r["contender"] == names[0]):
            others = [by_case.get((row["case"], n), {}) for n in names]
            lines.append(
                [
                    f"{row['D']} units, B {row['B']}, T {row['T']}",
                    f"{100 * row['share']:.1f} %",
                    number(row["median_ms"]),
                    *(f"{number(r.get('ratio'))} ({number(r.get('ratio_min'))})" for r in others),
                ]
            )
        headings = [title, "share", f"{names[0]} ms", *(f"{n} / nn.LSTM" for n in names)]
        parts.append(grid(headings, lines))
    parts.append("Ratios of medians, and of the fastest runs in brackets.")
    return parts


def _lengths(rows: list[Row]) -> list[str]:
    """Time of a step by length: a table for each group of cases and pass."""
    parts = []
    for group, name in dict.fromkeys((r["group"], r["pass"]) for r in rows):
        here = [r for r in rows if (r["group"], r["pass"]) == (group, name)]
        by_case = {(r["contender"], r["T"]): r for r in here}
        lengths = sorted({r["T"] for r in here})
        lines = []
        for contender in dict.fromkeys(r["contender"] for r in here):
            found = [by_case.get((contender, T)) for T in lengths]
            lines.append([contender, *(_per_step(row) if row else "" for row in found)])
        names = {row["contender"] for row in here}
        for made, of in _PARENTS.items():
            if {made, of} <= names:
                pairs = [(by_case.get((of, T)), by_case.get((made, T))) for T in lengths]
                times = [number(a["min_ms"] / b["min_ms"]) if a and b else "" for a, b in pairs]
                lines.append([f"{of} / {made}", *times])
        title = name if group == "sweep" else f"{group}, {name}"
        parts.append(grid([f"{title}: µs a step", *(f"T {T}" for T in lengths)], lines))
    bases = ", ".join(sorted({row["baseline"] for row in rows if "baseline" in row}))
    parts.append(
        f"In brackets: how many times faster than {bases}, by the fastest runs, as are quotients. "
        "Empty: not timed, since a call takes too long."
    )
    if any("iterations" in row for row in rows):
        parts.append(_solved([r for r in rows if r["group"] == "solve" and r["error"] is not None]))
    return parts


def _per_step(row: Row) -> str:
    faster = f" ({number(1 / row['ratio_min'])})" if "ratio_min" in row else ""
    return number(row["us_per_step"]) + faster


def _solved(rows: list[Row]) -> str:
    """Iterations and largest errors of the solvers, by length."""
    lines = [
        [
            f"{row['contender']}, {row['pass']}",
            str(row["T"]),
            str(row.get("iterations", "")),
            f"{row['error']:.0e}",
        ]
        for row in rows
    ]
    return grid(["solved", "T", "iterations", "largest relative error"], lines)


def _mux(rows: list[Row]) -> list[str]:
    return [
        grid([title, *headings[1:]], lines) for title, headings, lines in mux_report.tables(rows)
    ]


def _faster(row: Row) -> str:
    """How many times faster than the baseline."""
    return number(1 / row["ratio"]) if "ratio" in row else ""


_TABLES: dict[str, Callable[[list[Row]], list[str]]] = {
    "recurrence": _recurrence,
    "block": _recurrence,
    "layers": _layers,
    "streaming": _streaming,
    "mux": _mux,
    "skip": _share,
    "phased": _share,
    "compose": _lengths,
    "newton": _lengths,
}
