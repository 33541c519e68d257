import pytest

from longrnn import bench
from longrnn.bench import plot, report, results
from longrnn.bench.markdown import markdown

MACHINE = {
    "date": "2026-01-02",
    "device": "cpu",
    "cpu": "A processor",
    "cores": 2,
    "threads": 1,
    "gpu": "",
    "torch": "2.13.0",
    "kernels": "avx2",
    "huge_pages": "madvise",
}


def row(contender, median, **more):
    return {
        "suite": "recurrence",
        "group": "sweep",
        "case": "(1, 64, 8)",
        "B": 1,
        "T": 64,
        "D": 8,
        "dtype": "float32",
        "pass": "forward",
        "contender": contender,
        "kind": "peer",
        "status": "timed",
        "note": "",
        "error": None,
        "median_ms": median,
        "min_ms": median,
        "limit_ms": 0.5,
        **MACHINE,
        **more,
    }


def ours(median=2.0, **more):
    facts = {"ratio": 0.5, "of_limit": 0.25, "best_peer": "other", "times_best_peer": 8.0}
    return row("longrnn", median, kind="ours", baseline="torch.add", **{**facts, **more})


ROWS = [
    {"suite": "recurrence", "case": "", "status": "absent", "contender": "x", "note": "absent: x"},
    ours(),
    row("other", 16.0),
]


def test_markdown_holds_the_figures_and_the_machine():
    text = markdown(ROWS)
    assert "| (1, 64, 8) | 2 | 0.5 | 0.25 | other | 8 |" in text
    assert "A processor, 1 of 2 cores" in text
    assert "A peer is faster" not in text


def test_markdown_says_where_a_peer_wins():
    text = markdown([ours(times_best_peer=0.5)])
    assert "A peer is faster at: (1, 64, 8) forward (longrnn takes 2 × other)." in text


def test_markdown_takes_the_last_of_two_measurements():
    assert "| (1, 64, 8) | 3 |" in markdown([*ROWS, ours(3.0)])


def test_redrawing_a_file_twice_changes_nothing(tmp_path):
    results.write(tmp_path / "recurrence-cpu-2026-01-01.jsonl", [ours(7.0)])
    results.write(tmp_path / "recurrence-cpu-2026-01-02.jsonl", ROWS)
    readme = tmp_path / "README.md"
    readme.write_text("# A\n<!-- bench:recurrence -->\nold\n<!-- /bench -->\nend\n")
    (source,) = bench.update_markdown(readme, tmp_path)
    assert source.name == "recurrence-cpu-2026-01-02.jsonl"
    text = readme.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.endswith("<!-- /bench -->\nend\n")
    bench.update_markdown(readme, tmp_path)
    assert readme.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "got neither"),
        ("<!-- bench:speed -->\n<!-- /bench -->", "got bench:speed"),
        ("<!-- bench:layers -->\n<!-- /bench -->", "run longrnn bench layers"),
    ],
)
def test_a_file_that_cannot_be_drawn_is_left_alone(tmp_path, text, said):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=said):
        bench.update_markdown(readme, tmp_path)
    assert readme.read_text() == text


def test_layers_and_streaming_have_tables_too():
    facts = {"ratio": 0.25, "of_products": 0.8, "peak_mb": 12.0}
    layer = ours(suite="layers", group="default", **facts)
    text = markdown([{**layer, "pass": "forward"}, {**layer, "pass": "training"}])
    assert "| longrnn | 2 | 4 | 0.8 | 12 | 2 |" in text
    text = markdown([ours(suite="streaming", us_per_step=31.5, T=1, ratio=0.5)])
    assert "| longrnn | 31.5 | 2 |" in text


def test_the_terminal_table_and_its_remarks():
    slow = row("slow", 9.0, status="over the cap", note="about 9 s a call")
    title, headings, lines = report.table([row("other", 16.0), ours(), slow])
    assert title == "recurrence (1, 64, 8) forward"
    assert [line[0] for line in lines] == ["longrnn", "other"]
    assert all(len(line) == len(headings) for line in lines)
    assert report.remarks([*ROWS, slow]) == ["absent: x", "over the cap: slow: about 9 s a call"]


def test_a_line_that_is_not_json_is_told_by_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match="line 2 must be JSON"):
        results.read(path)


@pytest.mark.parametrize("suite", ["recurrence", "layers", "streaming"])
def test_a_plot_of_each_pass(tmp_path, suite):
    rows = [
        ours(suite=suite, T=T, limit_ms=T / 100, **{"pass": name})
        for T in (8, 64)
        for name in ("forward", "training")
    ]
    made = plot.plot(rows, tmp_path / "new")
    assert [p.name for p in made] == [f"{suite}-cpu-forward.png", f"{suite}-cpu-training.png"]
    assert all(p.stat().st_size > 1000 for p in made)


def test_nothing_timed_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="must hold a timed contender"):
        plot.plot(ROWS[:1], tmp_path)
    with pytest.raises(ValueError, match="must hold a timed contender"):
        markdown(ROWS[:1])
