import itertools
import json

import pytest
import torch

from longrnn import bench
from longrnn.bench import layers, machine, measure, memory, recurrence, results, scans, streaming
from longrnn.bench.contender import Contender, Run, Unsupported, relative_error
from longrnn.bench.layer_case import LayerCase
from longrnn.bench.measure import Budget
from longrnn.bench.scan_case import torch_scan
from longrnn.ops.linear_recurrence.reference import linear_recurrence_reference

FIELDS = """
    suite group case B T D dtype pass contender kind version layout status note error repeats
    median_ms min_ms max_ms baseline ratio ratio_min best_peer times_best_peer times_best_peer_min
    limit_ms of_limit date device cpu cores threads huge_pages gpu python torch kernels
    bandwidth_gb_per_s multiply_adds_per_s
"""
QUICK = ("torch.add", "longrnn", "longrnn serial", "loop over unbind")


def unable(case):
    raise Unsupported("only on Sundays")


def broken(case):
    raise RuntimeError("no\nsuch kernel")


def exhausted(case):
    raise MemoryError


FAKES = [
    torch_scan("forgets its decays", lambda case: lambda a, x: x.cumsum(1) + 0 * a),
    torch_scan("makes NaN", lambda case: lambda a, x: x * a * float("nan")),
    torch_scan("too short", lambda case: lambda a, x: (a * x)[:, 1:]),
    Contender("unable", unable),
    Contender("broken", broken),
    Contender("exhausted", exhausted),
    torch_scan("missing", unable, module="no_such_module", package="no-such-package"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    monkeypatch.setattr(recurrence, "_CPU", {"shapes": [(2, 33, 3)], "sweep": [(1, 7, 2)]})
    chosen = [c for c in scans.contenders("cpu") if c.name in QUICK] + FAKES
    monkeypatch.setattr(recurrence, "contenders", lambda device: chosen)


def run(suite, folder, **options):
    rows = results.read(bench.run_suite(suite, folder, seconds=0.01, **options))
    return rows, {(r["case"], r.get("pass"), r["contender"]): r for r in rows}


def test_recurrence_lines_carry_every_field(tmp_path):
    rows, found = run("recurrence", tmp_path)
    assert rows[0]["status"] == "absent"
    for name in ("forward", "training"):
        row = found["(2, 33, 3)", name, "longrnn"]
        assert row["status"] == "timed"
        assert not set(FIELDS.split()) - set(row)
        assert row["min_ms"] <= row["median_ms"] <= row["max_ms"]
        assert row["best_peer"] == "loop over unbind"
        assert row["error"] < 1e-5
    assert found["(2, 33, 3)", "forward", "torch.add"]["ratio"] == 1
    # 3 tensors forward, 8 with the backward: the limit counts bytes.
    ratio = row["limit_ms"] / found["(2, 33, 3)", "forward", "longrnn"]["limit_ms"]
    assert ratio == pytest.approx(8 / 3)


def test_a_wrong_contender_is_named_and_not_timed(tmp_path):
    _, found = run("recurrence", tmp_path)
    for name in ("forward", "training"):
        for contender in ("forgets its decays", "makes NaN"):
            row = found["(2, 33, 3)", name, contender]
            assert row["status"] == "wrong"
            assert "median_ms" not in row
            assert "off by" in row["note"]


def test_ours_broken_on_purpose_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "linear_recurrence", lambda a, x, **_: x)
    _, found = run("recurrence", tmp_path, only="shapes")
    assert found["(2, 33, 3)", "forward", "longrnn"]["status"] == "wrong"


@pytest.mark.parametrize(
    ("contender", "status", "note"),
    [
        ("unable", "unsupported", "only on Sundays"),
        ("broken", "failed", "RuntimeError: no"),
        ("exhausted", "out of memory", ""),
        ("too short", "failed", "RuntimeError: h must have shape (2, 33, 3), got (2, 32, 3)"),
    ],
)
def test_one_bad_peer_does_not_end_the_suite(tmp_path, contender, status, note):
    _, found = run("recurrence", tmp_path, only="shapes")
    row = found["(2, 33, 3)", "forward", contender]
    assert (row["status"], row["note"]) == (status, note)


def test_what_is_done_next_is_told(tmp_path):
    told = []
    run("recurrence", tmp_path, only="(2, 33, 3)", on_step=told.append)
    times = [words for words in told if words.startswith("(2, 33, 3): times longrnn, sample")]
    assert times[0].endswith("sample 1")
    assert told.index("(2, 33, 3): checks longrnn") < told.index(times[0])


def test_an_absent_peer_is_named_once_with_its_package(tmp_path):
    rows, _ = run("recurrence", tmp_path)
    named = [r for r in rows if r["contender"] == "missing"]
    assert [r["note"] for r in named] == ["absent: missing (pip install no-such-package)"]


def test_a_second_run_appends_and_lines_stay_json(tmp_path):
    run("recurrence", tmp_path, only="sweep")
    rows, _ = run("recurrence", tmp_path, only="sweep")
    (path,) = tmp_path.iterdir()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert sum(r["contender"] == "longrnn" and r["pass"] == "forward" for r in rows[1:]) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"suite": "speed"}, "suite must be one of recurrence, layers, streaming.*got 'speed'"),
        ({"device": "tpu"}, "device must be one of cpu, cuda; got 'tpu'"),
        ({"seconds": 0}, "seconds must be positive, got 0"),
        ({"cap": float("nan")}, "cap must be positive, got nan"),
        ({"only": "nothing"}, "only must be part of a case's group"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        bench.run_suite(**{"suite": "recurrence", "folder": tmp_path / "new", **options})
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told(tmp_path):
    with pytest.raises(ValueError, match="device must be cpu"):
        bench.run_suite("recurrence", tmp_path, device="cuda")


def test_a_slow_contender_is_over_the_cap_and_probed_ones_never_run_in_full(monkeypatch):
    calls = []

    def prepare(case):
        return Run(lambda: calls.append(case), None)

    monkeypatch.setattr(measure, "_seconds", lambda call, device, count=1: call() or 2.0)
    slow = [Contender("slow", prepare), Contender("probed", prepare, probe=True)]
    outcomes = measure.compare(slow, "whole", 1e-5, Budget(1, 1), shortened=("part", 16))
    assert [o.status for o in outcomes] == ["over the cap"] * 2
    assert [o.note for o in outcomes] == ["about 2 s a call", "about 32 s a call"]
    assert calls == ["part", "part", "whole"]


def test_contenders_take_turns():
    order = []
    turns = [
        Contender(name, lambda case, name=name: Run(lambda: order.append(name), None))
        for name in "ab"
    ]
    outcomes = measure.compare(turns, None, 1e-5, Budget(0.01, 1))
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 2 * len(outcomes[0].times) - 1
    assert len(outcomes[0].times) == len(outcomes[1].times) >= 3


@pytest.mark.parametrize("T", [1, 2, 9, 10, 50])
def test_the_exact_results_are_those_of_the_reference_loop(T):
    a, x, y = (torch.randn(2, T, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    h = linear_recurrence_reference(a, x, dim=1)
    grad_a, grad_x = torch.autograd.grad(h, (a, x), y)
    with torch.no_grad():
        found = recurrence.exact_results(a, x, y)
    assert relative_error(found, {"h": h, "grad_a": grad_a, "grad_x": grad_x}) < 1e-12


def test_every_layer_is_checked_and_timed_beside_its_products(tmp_path, monkeypatch):
    shape = layers.LayerShape("default", 2, 12, (3, 4, 2), only=("gilr", "sru", "nn.LSTM"))
    monkeypatch.setattr(layers, "cases", lambda device: [shape])
    monkeypatch.setattr(memory, "peak", lambda contender, case, device: 1.5)
    rows, _ = run("layers", tmp_path)
    timed = {(r["contender"], r["pass"]): r for r in rows if r["status"] == "timed"}
    for name in ("gilr", "sru"):
        for done in ("forward", "training"):
            row = timed[name, done]
            assert row["error"] < 1e-3
            assert row["products_ms"] == timed[f"{name}: products alone", done]["median_ms"]
            assert row["baseline"] == "nn.LSTM"
            assert row["peak_mb"] == 1.5
    # gilr: (2n, m) and (2n, n) products; the first needs no gradient of its input.
    forward, training = (timed["gilr", p]["limit_ms"] for p in ("forward", "training"))
    assert training / forward == pytest.approx((2 * 3 + 3 * 4) / (3 + 4))


def test_a_layer_that_goes_wrong_after_a_while_is_refused(monkeypatch):
    case = LayerCase.draw(2, 30, (3, 4, 1), True)
    runner = next(c for c in layers.contenders("cpu") if c.name == "gilr")
    assert runner.prepare(case).check() < 1e-5
    from longrnn.nn import GILR

    forward = GILR.forward

    def drifting(self, x, *arguments, **options):
        output, state = forward(self, x, *arguments, **options)
        return (output + 0.01 if x.dtype == torch.float32 else output), state

    monkeypatch.setattr(GILR, "forward", drifting)
    assert runner.prepare(case).check() > 1e-3


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
def test_a_clock_is_judged_by_the_periods_that_it_has(training):
    case = LayerCase.draw(1, 3000, (3, 8, 1), training)
    runner = next(c for c in layers.contenders("cpu") if c.name == "phased-gilr-lstm")
    assert runner.prepare(case).check() < 2e-5


def test_peak_memory_grows_with_the_sequence():
    runner = "gilr: products alone"
    small, large = (
        memory.peak(runner, LayerCase.draw(1, T, (64, 64, 1), False), "cpu") for T in (64, 65536)
    )
    assert 0.9 < (large - small) / (4 * 65536 * 128 / 1e6) < 1.5  # the product is (T, 2n)


def test_streaming_measures_every_layer_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_STACK", (3, 4, 1))
    monkeypatch.setattr(streaming, "cases", lambda device: [streaming.Piece(2)])
    rows, _ = run("streaming", tmp_path)
    wrong = [r for r in rows if r["status"] != "timed"]
    assert not wrong
    assert all(r["us_per_step"] == pytest.approx(500 * r["median_ms"]) for r in rows)


def test_a_stream_that_forgets_its_state_is_wrong():
    class Forgetful(torch.nn.LSTM):
        def forward(self, x, state=None):
            return super().forward(x, None)

    case = LayerCase.draw(1, 4, (3, 4, 1), False)
    assert streaming.stream_run(torch.nn.LSTM(3, 4), case).check() < 1e-5
    assert streaming.stream_run(Forgetful(3, 4), case).check() > 1e-2
