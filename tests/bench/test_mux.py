import pytest

from longrnn import bench
from longrnn.batching import MuxUnroll
from longrnn.bench import (
    machine,
    markdown,
    measure,
    mux,
    mux_case,
    mux_report,
    plot,
    report,
    results,
)
from longrnn.bench.mux import WAYS, Line


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    monkeypatch.setattr("longrnn.batching.trial.MOST_OPERATIONS", 0)  # compiling takes long
    monkeypatch.setattr(mux.memory, "growth_elsewhere", lambda module, task: 1.0)
    programme = [
        Line("notebook", mux_case.LOOP, 1, 5, (3, 4, 1), planned=False),
        Line("uniform", "sru", 4, 24, (3, 4, 1)),
        Line("uniform", "lstm", 4, 24, (3, 4, 1)),
    ]
    monkeypatch.setattr(mux, "cases", lambda device: programme)


@pytest.fixture
def rows(tmp_path):
    return results.read(bench.run_suite("mux", tmp_path, seconds=0.01))


def test_every_way_is_timed_or_says_why_not(rows):
    status = {(r["layer"], r["contender"]): r["status"] for r in rows if r["pass"] == "training"}
    assert len(status) == 3 * len(mux.contenders("cpu"))
    not_timed = {key for key, value in status.items() if value != "timed"}
    assert not_timed == {
        (mux_case.LOOP, "pack_padded_sequence"),
        (mux_case.LOOP, "packed"),
        ("lstm", "packed"),
    }
    assert all(status[key] == "unsupported" for key in not_timed)


def test_steps_are_counted_and_the_ideal_is_what_padding_costs(rows):
    for row in rows:
        if row["status"] != "timed":
            continue
        total = row["valid_steps"] + row["padded_steps"]
        count = 5 if row["layer"] == mux_case.LOOP else 24
        if row["contender"] in ("pad", "lengths"):
            assert total == 100 * count
        elif row["contender"] in ("packed", "pack_padded_sequence"):
            assert row["padded_steps"] == 0
        elif row["contender"] in ("buckets", "mux"):
            assert row["of_ideal"] == pytest.approx(row["speed_up"] / row["ideal"])
            in_buckets = 100 * count / row["ideal"]
            if row["contender"] == "buckets":
                assert total == pytest.approx(in_buckets)
            else:  # cut off at the longest of each batch
                assert row["valid_steps"] <= total < in_buckets
                assert "sliced" in row["way"]


@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_loses_a_sequence_is_not_timed(monkeypatch, way, tmp_path):
    def losing(case):
        for k, work in enumerate(WAYS[way][0](case)):
            if k:
                yield work

    layer = "phased-lstm" if way == "pad, step by step" else "sru"
    case = Line("uniform", layer, 4, 24, (3, 4, 1)).draw(True)
    right = mux_case.ready(case, WAYS[way][0], way == "mux").check()
    wrong = mux_case.ready(case, losing, way == "mux").check()
    assert right < 1e-5 < 1e-2 < wrong


@pytest.mark.parametrize("layer", ["skip-lstm", "skip-gilr-lstm", "phased-gru", "parallel-lstm"])
def test_every_layer_of_ours_takes_sequences_end_to_end(layer):
    case = Line("uniform", layer, 4, 12, (3, 4, 1)).draw(True)
    assert mux_case.ready(case, mux_case.packed).check() < 1e-4


def test_the_lengths_are_those_of_the_programme():
    notebook = Line("notebook", "lstm", 1, 100, (10, 10, 1), planned=False).draw(False)
    assert notebook.buckets == (1, 21, 41, 61, 81, 100)
    assert (notebook.lengths.min() >= 1, notebook.lengths.max()) == (True, 100)
    long = Line("lognormal", "sru", 8, 64, (4, 4, 1)).draw(False)
    assert long.lengths.max() == long.buckets[-1] == 5000
    assert 300 < long.lengths.median() < 500
    assert long.shorter(8).lengths.max() == long.shorter(8).buckets[-1] == 625


@pytest.mark.parametrize("way", ["packed", "buckets", "mux"])
def test_memory_is_measured_on_the_largest_batch(monkeypatch, way):
    asked, run = [], []

    def growth_of_call(contender, case, short, device):
        asked.append((contender.name, len(short.sequences), short.buckets))
        contender.prepare(case).call()
        return 2.0

    def step(module, work, case):
        run.append((isinstance(module, MuxUnroll), work.steps))

    monkeypatch.setattr(mux.memory, "growth_of_call", growth_of_call)
    monkeypatch.setattr(mux_case, "_step", step)
    line = mux.cases("cpu")[1]
    assert mux.growth([str(line), way, "cpu"]) == 2.0
    assert asked == [(way, 4, (2,))]
    most = max(work.steps for work in WAYS[way][0](line.draw(True)))
    assert run == [(way == "mux", most)]


def test_results_become_tables_and_pictures(rows, tmp_path):
    timed = [row for row in rows if row["status"] == "timed"]
    tables = mux_report.tables(timed)
    assert tables[0][0].startswith("notebook, buckets 1, 21, 41, 61, 81, 100, ideal ")
    published, padding = tables[0][2][-2:]
    assert published == ["published", "2210", "", "", "1.67", "", "0.999", ""]
    assert padding[:2] == ["steps of padding", f"{500 - timed[0]['valid_steps']}"]
    assert tables[3][2][0][:2] == ["sru", "1"]  # MB of `pad`, as the fixture has them
    for _, headings, lines in tables:
        assert {len(line) for line in lines} == {len(headings)}
    text = markdown.markdown(rows)
    assert "| sru |" in text
    assert "mux / ideal" in text
    _, headings, cells = report.table([r for r in rows if r["layer"] == "lstm"])
    assert "of ideal" in headings
    assert {len(line) for line in cells} == {len(headings)}
    pictures = plot.plot(rows, tmp_path)
    assert sorted(p.name for p in pictures) == ["mux-cpu-notebook.png", "mux-cpu-uniform.png"]
