"""The mux suite's results as tables, and drawn: the speed-up of each layer against the ideal."""

from pathlib import Path
from typing import Any

from longrnn.bench.report import number
from longrnn.bench.results import Row


def speed_ups(rows: list[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """For each distribution of lengths a title, headings, and a line a layer, of training."""
    trained = [row for row in rows if row["pass"] == "training"]
    ways = list(dict.fromkeys(row["contender"] for row in trained))[1:]
    found = []
    for group, buckets in dict.fromkeys((r["group"], tuple(r["buckets"])) for r in trained):
        here = [r for r in trained if (r["group"], tuple(r["buckets"])) == (group, buckets)]
        lines = []
        for layer in dict.fromkeys(row["layer"] for row in here):
            own = {row["contender"]: row for row in here if row["layer"] == layer}
            lines.append(
                [
                    layer,
                    number(own["pad"]["median_ms"]) if "pad" in own else "",
                    *(number(own.get(way, {}).get("speed_up")) for way in ways),
                    number(own.get("mux", {}).get("of_ideal")),
                ]
            )
        headings = ["", "pad, ms", *(f"× by {way}" for way in ways), "mux / ideal"]
        title = f"{group}, buckets {', '.join(map(str, buckets))}, ideal {number(here[0]['ideal'])}"
        found.append((title, headings, lines))
    return found


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
        axes.grid(True, axis="x", which="both", alpha=0.2)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), fontsize="small")
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
