"""Log-log plots of results: time against length, and the least that the machine allows."""

from pathlib import Path

from longrnn.bench import mux_report
from longrnn.bench.markdown import latest
from longrnn.bench.results import Row

_GROUPS = {  # of cases, a picture each
    "recurrence": ("sweep",),
    "block": ("n=2", "n=4", "n=8"),
    "layers": ("sweep",),
    "streaming": ("streaming",),
    "compose": ("sweep",),
    "newton": ("gru", "gru-16-features", "lstm", "solve"),
}
SHARES = {"skip": "share of steps that update", "phased": "share of units that are open"}
_TIMES = {
    "recurrence": ("median_ms", "ms a call"),
    "block": ("median_ms", "ms a call"),
    "layers": ("median_ms", "ms a call"),
    "streaming": ("median_ms", "ms a piece"),
    "compose": ("us_per_step", "µs a step"),
    "newton": ("us_per_step", "µs a step"),
}


def plot(rows: list[Row], folder: str | Path) -> list[Path]:
    """Draw one picture of each pass of a suite, and of each group of cases where it has several.

    Args:
        rows: Of one suite and device, as read from its file.
        folder: Where `<suite>-<device>[-<group>]-<pass>.png` go; made if need be.

    Returns:
        The files.

    Raises:
        ValueError: If no contender was timed.
    """
    timed = [row for row in latest(rows) if row["status"] == "timed"]
    if not timed:
        raise ValueError("rows must hold a timed contender, got none")
    suite, device = timed[0]["suite"], timed[0]["device"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    if suite == "mux":
        return mux_report.plot(timed, folder)
    if suite in SHARES:
        return [_plot_share([r for r in timed if r["pass"] == "forward"], folder)]
    made = []
    groups = _GROUPS[suite]
    for name in dict.fromkeys(row["pass"] for row in timed):
        shown = [r for r in timed if r["pass"] == name and r["dtype"] == "float32"]
        for group in groups:
            swept = [r for r in shown if r["group"] == group]
            if swept or len(groups) == 1:
                title = name if len(groups) == 1 else f"{group}-{name}"
                path = Path(folder) / f"{suite}-{device}-{title}.png"
                made.append(_plot_lengths(swept or shown, title, path))
    return made


def _plot_lengths(rows: list[Row], title: str, path: Path) -> Path:
    """Time against length, and the least that the machine allows where that is known."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    suite = rows[0]["suite"]
    key, unit = _TIMES[suite]
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_prop_cycle(color=[colormaps["tab20"](k) for k in range(20)])
    for contender in dict.fromkeys(r["contender"] for r in rows if r["kind"] != "products"):
        points = sorted((r["T"], r[key]) for r in rows if r["contender"] == contender)
        ours = next(r for r in rows if r["contender"] == contender)["kind"] == "ours"
        axes.plot(*zip(*points, strict=True), "-o" if ours else "--.", label=contender)
    limits = sorted({(r["T"], r["limit_ms"]) for r in rows if "limit_ms" in r})
    if suite in ("recurrence", "block") and limits:
        label = "the bytes that must move"
        axes.plot(*zip(*limits, strict=True), color="black", linewidth=2, label=label)
    elif limits:
        least = {T: min(ms for t, ms in limits if t == T) for T, _ in limits}
        label = "the fewest multiply-adds"
        axes.plot(list(least), list(least.values()), color="black", linewidth=2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="steps T", ylabel=unit)
    axes.set_title(f"{suite}, {title}, {rows[0]['gpu'] or rows[0]['cpu']}")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=120)
    return path


def _plot_share(rows: list[Row], folder: str | Path) -> Path:
    """Time, as a multiple of nn.LSTM's, against the share of the work that is done."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = rows[0]
    sizes = list(dict.fromkeys((r["D"], r["B"], r["T"]) for r in rows))
    figure = Figure(figsize=(4 * len(sizes), 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, (n, B, T) in zip(panels, sizes, strict=True):
        same = [r for r in rows if (r["D"], r["B"], r["T"]) == (n, B, T)]
        here = [r for r in same if "ratio_min" in r]
        for contender in dict.fromkeys(r["contender"] for r in here):
            points = sorted(
                (r["share"], r["ratio_min"]) for r in here if r["contender"] == contender
            )
            ours = next(r for r in here if r["contender"] == contender)["kind"] == "ours"
            axes.plot(*zip(*points, strict=True), "-o" if ours else "--.", label=contender)
        axes.plot([0.03, 1], [0.03, 1], color="black", linewidth=1, label="the share itself")
        axes.set(xscale="log", yscale="log", xlabel=SHARES[first["suite"]])
        axes.set_title(f"{n} units, {B} at once, {T:,} steps")
        axes.grid(True, which="both", alpha=0.2)
    panels[0].set_ylabel("time / nn.LSTM's")
    panels[0].legend(fontsize="x-small")
    path = Path(folder) / f"{first['suite']}-{first['device']}-forward.png"
    figure.savefig(path, dpi=120)
    return path
