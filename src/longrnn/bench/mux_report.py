"""The mux suite's results as tables, and drawn: the speed-up of each layer against the ideal."""

from pathlib import Path
from typing import Any

from longrnn.bench.report import number
from longrnn.bench.results import Row

Table = tuple[str, list[str], list[list[str]]]
"""A title, headings, and lines of cells."""

# The original's test by its buckets: 221 s and 132 s for 100 times 100 sequences.
_PUBLISHED_BUCKETS = (1, 21, 41, 61, 81, 100)
_PUBLISHED_MS, _PUBLISHED_TIMES, _PUBLISHED_IDEAL = 2210.0, 1.67, 1.672


def tables(rows: list[Row]) -> list[Table]:
    """For each distribution of lengths: times faster than padding, steps of padding, and memory.

    Args:
        rows: Timed ones; those of training are told.

    Returns:
        Two tables each, with a line a layer; one where no memory was measured.
    """
    trained = [row for row in rows if row["pass"] == "training"]
    made = []
    for group, buckets in dict.fromkeys((r["group"], tuple(r["buckets"])) for r in trained):
        here = [r for r in trained if (r["group"], tuple(r["buckets"])) == (group, buckets)]
        made.append(_speed_ups(group, buckets, here))
        if any(row.get("peak_mb") is not None for row in here):
            made.append(_memory(group, here))
    return made


def _by_layer(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """The rows of each layer, by the way to batch."""
    layers: dict[str, dict[str, Row]] = {}
    for row in rows:
        layers.setdefault(row["layer"], {})[row["contender"]] = row
    return layers


def _speed_ups(group: str, buckets: tuple[int, ...], rows: list[Row]) -> Table:
    ways = [way for way in dict.fromkeys(row["contender"] for row in rows) if way != "pad"]
    lines = [
        [
            layer,
            number(own.get("pad", {}).get("median_ms")),
            *(number(own.get(way, {}).get("speed_up")) for way in ways),
            *(number(own.get(way, {}).get("of_ideal")) for way in ("buckets", "mux")),
        ]
        for layer, own in _by_layer(rows).items()
    ]
    if group == "notebook" and buckets == _PUBLISHED_BUCKETS:
        found = ["" if way != "buckets" else number(_PUBLISHED_TIMES) for way in ways]
        of_ideal = number(_PUBLISHED_TIMES / _PUBLISHED_IDEAL)
        lines.append(["published", number(_PUBLISHED_MS), *found, of_ideal, ""])
    padded = {row["contender"]: f"{row['padded_steps']:,}" for row in rows}
    lines.append(["steps of padding", *(padded.get(way, "") for way in ("pad", *ways)), "", ""])
    headings = ["", "pad, ms", *(f"× by {way}" for way in ways)]
    title = f"{group}, buckets {', '.join(map(str, buckets))}, ideal {number(rows[0]['ideal'])}"
    return title, [*headings, "buckets / ideal", "mux / ideal"], lines


def _memory(group: str, rows: list[Row]) -> Table:
    ways = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [
        [layer, *(number(own.get(way, {}).get("peak_mb")) for way in ways)]
        for layer, own in _by_layer(rows).items()
    ]
    return f"{group}: MB that the largest batch takes in training", ["", *ways], lines


def plot(rows: list[Row], folder: str | Path) -> list[Path]:
    """Draw, for each distribution of lengths, every layer's speed-up in training and the ideal.

    Returns:
        The files, `mux-<device>-<group>.png`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained = [r for r in rows if r["pass"] == "training" and "speed_up" in r]
    made = []
    for group in dict.fromkeys(row["group"] for row in trained):
        here = [row for row in trained if row["group"] == group]
        cases = list(dict.fromkeys(row["case"] for row in here))
        figure = Figure(figsize=(8, 1.5 + 0.5 * len(cases)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for y, case in enumerate(cases):
            _draw_case(axes, y, [row for row in here if row["case"] == case])
        axes.set_yticks(range(len(cases)), [_label(c, here) for c in cases])
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="times faster than padding to the longest of all")
        axes.set_title(f"{group}, training, {here[0]['gpu'] or here[0]['cpu']}")
        for on_axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            on_axis("{x:g}")
        axes.grid(True, axis="x", which="both", alpha=0.2)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), fontsize="small", loc="outside right upper")
        path = Path(folder) / f"mux-{here[0]['device']}-{group}.png"
        figure.savefig(path, dpi=120)
        made.append(path)
    return made


def _draw_case(axes: Any, y: int, rows: list[Row]) -> None:
    marks = {
        "mux": "o",
        "buckets": "|",
        "packed": "s",
        "lengths": "+",
        "pad to the longest": "x",
        "pack_padded_sequence": "v",
    }
    ideal = rows[0]["ideal"]
    axes.plot([ideal, ideal], [y - 0.4, y + 0.4], color="black", linewidth=2, label="ideal")
    for k, (way, mark) in enumerate(marks.items()):
        points = [row["speed_up"] for row in rows if row["contender"] == way]
        axes.plot(points, [y] * len(points), mark, color=f"C{k}", linestyle="none", label=way)


def _label(case: str, rows: list[Row]) -> str:
    row = next(r for r in rows if r["case"] == case)
    several = len({r["case"] for r in rows if r["layer"] == row["layer"]}) > 1
    return f"{row['layer']}\n{case.rsplit(', ', 1)[1]}" if several else row["layer"]
