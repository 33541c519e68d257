import pytest
import torch

from longrnn import bench
from longrnn.bench import block, machine, measure, results
from longrnn.bench.contender import relative_error
from longrnn.bench.measure import Budget
from longrnn.bench.scan_case import ScanCase
from longrnn.ops.block_linear_recurrence.reference import block_linear_recurrence_reference

NAMES = ("longrnn", "loop over matmul", "torch associative_scan")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(machine, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(machine, "_SIDE", 16)
    monkeypatch.setattr(measure, "_REPEATS", 3)
    monkeypatch.setattr(block, "_CASES", {2: [(33, 3)]})
    chosen = [c for c in block.contenders("cpu") if c.name in NAMES]
    monkeypatch.setattr(block, "contenders", lambda device: chosen)


def test_every_contender_is_right_and_timed(tmp_path):
    rows = results.read(bench.run_suite("block", tmp_path, seconds=0.01))
    assert {(r["contender"], r["pass"]) for r in rows} == {
        (name, done) for name in NAMES for done in ("forward", "training")
    }
    assert all(r["status"] == "timed" and r["error"] < 1e-5 for r in rows)
    # forward: A, x and h; training: A twice and its gradient, five vectors
    limits = {r["pass"]: r["limit_ms"] for r in rows}
    assert limits["training"] / limits["forward"] == pytest.approx((3 * 2 + 5) / (2 + 2))


@pytest.mark.parametrize("T", [1, 2, 9, 10, 50])
def test_the_exact_results_are_those_of_the_reference_loop(T):
    a, x, y = (torch.randn(T, 2, 3, *tail, dtype=torch.float64) for tail in ((3,), (), ()))
    a.requires_grad_(), x.requires_grad_()
    h = block_linear_recurrence_reference(a, x)
    grad_a, grad_x = torch.autograd.grad(h, (a, x), y)
    with torch.no_grad():
        found = block.exact_results(a, x, y)
    assert relative_error(found, {"h": h, "grad_a": grad_a, "grad_x": grad_x}) < 1e-12


def test_a_contender_that_transposes_its_transitions_is_wrong():
    from longrnn.bench.scan_case import torch_scan
    from longrnn.ops import block_linear_recurrence

    a, x, y = block.inputs(block.Shape(20, 2, 3), "cpu")
    exact = block.exact_results(a.double(), x.double(), y.double())
    case = ScanCase(a, x, y, True, lambda: exact)
    right = torch_scan("right", lambda case: block_linear_recurrence, "(T, B, n, n)")
    wrong = torch_scan(
        "wrong", lambda case: lambda a, x: block_linear_recurrence(a.mT, x), "(T, B, n, n)"
    )
    outcomes = measure.compare([right, wrong], case, 1e-5, Budget(0.01, 1))
    assert [o.status for o in outcomes] == ["timed", "wrong"]
