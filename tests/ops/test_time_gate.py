from fractions import Fraction

import pytest
import torch

from longrnn import time_gate
from longrnn.ops.time_gate.plain import time_gate_plain

TRIO = (torch.tensor([100.0]), torch.tensor([0.0]), torch.tensor([0.05]))


def parameters(n=5, dtype=torch.float32):
    """Periods from 1 to 1,000, shifts inside them, on ratios from 0.05 to 1."""
    period = torch.logspace(0, 3, n, dtype=torch.float64)
    shift = period * torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    return [x.to(dtype) for x in (period, shift, torch.linspace(0.05, 1, n))]


def exact(t, period, shift, on_ratio, leak):
    """The definition, in rational numbers."""
    t, period, shift, on_ratio, leak = map(Fraction, (t, period, shift, on_ratio, leak))
    phase = (t - shift) % period / period
    if phase < on_ratio / 2:
        return 2 * phase / on_ratio
    return 2 - 2 * phase / on_ratio if phase < on_ratio else leak * phase


def exactly(times, period, shift, on_ratio, leak):
    units = list(zip(period.tolist(), shift.tolist(), on_ratio.tolist(), strict=True))
    rows = [[float(exact(t, *unit, leak)) for unit in units] for t in times.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_gate_has_its_golden_values():
    phases = torch.tensor([0, 0.0125, 0.025, 0.0375, 0.5, 0.999])
    k = time_gate(100 * phases, *TRIO, leak=1e-3).flatten()
    torch.testing.assert_close(k, torch.tensor([0, 0.5, 1, 0.5, 5e-4, 9.99e-4]))


def test_a_unit_turns_exactly_at_its_boundaries():
    period, shift, on_ratio = (torch.tensor([x]) for x in (8.0, 1.0, 0.5))
    times = torch.tensor([1.0, 2, 3, 4, 5, 7, 9, 17])  # phases 0, 1/8, 1/4, ...
    k = time_gate(times, period, shift, on_ratio, leak=0.5).flatten()
    assert k.tolist() == [0, 0.5, 1, 0.5, 0.25, 0.375, 0, 0]


@pytest.mark.parametrize("leak", [0, 1e-3])
def test_float64_agrees_with_rational_numbers(leak):
    gate = parameters(dtype=torch.float64)
    times = torch.rand(200, dtype=torch.float64) * 4000 - 1000
    difference = time_gate(times, *gate, leak=leak) - exactly(times, *gate, leak)
    assert difference.abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_microseconds_of_an_hour_have_the_right_phase(dtype):
    gate = parameters(dtype=dtype)
    times = 3.6e9 - torch.randint(10**6, (300,), dtype=torch.float64)
    k = time_gate(times, *gate, leak=0.0)
    assert k.dtype == dtype
    # A stamp's distance to the shift is rounded to 2⁻²² µs, the phase to 2⁻²⁴; the slope is 2/r.
    allowed = 2 * (2**-21 / gate[0].double() + 2**-23) / gate[2].double() + torch.finfo(dtype).eps
    assert ((k.double() - exactly(times, *gate, 0.0)).abs() <= allowed).all()


@pytest.mark.parametrize("times_dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_computes_in_float32(times_dtype):
    times = torch.arange(250).to(times_dtype)
    gate = parameters(dtype=torch.bfloat16)
    k = time_gate(times, *gate, leak=1e-3)
    wide = time_gate(times.float(), *(x.float() for x in gate), leak=1e-3)
    assert k.dtype == torch.bfloat16
    assert torch.equal(k, wide.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gate_is_periodic_before_the_shift_too(dtype):
    gate = torch.tensor([[4.0, 64.0], [100.5, -3.25], [0.25, 0.5]], dtype=dtype)
    times = torch.arange(0, 64, 0.125, dtype=dtype)
    k = time_gate(times, *gate, leak=1e-3)
    for periods in (-5, -1, 3):
        assert torch.equal(time_gate(times + 64 * periods, *gate, leak=1e-3), k)


def test_stamps_may_descend_and_repeat():
    gate = parameters()
    times = torch.randint(100, (50,)).float()
    together = time_gate(times, *gate, leak=1e-3)
    alone = torch.stack([time_gate(t, *gate, leak=1e-3) for t in times])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_units_come_last(shape, n):
    assert time_gate(torch.rand(shape), *parameters(n), leak=0.0).shape == (*shape, n)


def test_the_mean_over_a_period_is_known():
    phases = (torch.arange(10**6, dtype=torch.float64) + 0.5) / 10**4
    k = time_gate(phases, *(x.double() for x in TRIO), leak=1e-3)
    r = TRIO[2].double()
    torch.testing.assert_close(k.mean(0), r / 2 + 1e-3 * (1 - r**2) / 2)


def test_an_on_ratio_of_one_never_closes():
    phases = torch.arange(0, 1, 1 / 64)
    k = time_gate(phases, torch.ones(1), torch.zeros(1), torch.ones(1), leak=1e-3).flatten()
    assert torch.equal(k, 1 - (2 * phases - 1).abs())


def test_gradients_match_finite_differences():
    times = torch.tensor([[-70.3, 0.31, 3.02], [55.5, 55.5, 1234.5]], dtype=torch.float64)
    *gate, on_ratio = parameters(4, dtype=torch.float64)
    gate.append(0.9 * on_ratio)  # at 1, finite differences would leave what is legal
    inputs = [x.requires_grad_() for x in (times, *gate)]
    assert torch.autograd.gradcheck(lambda *x: time_gate(*x, leak=0.3), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: time_gate(*x, leak=0.3), inputs)


@pytest.mark.parametrize("t", [-340.0, 1.0, 203.0, 3.6e9 + 4])
def test_gradients_have_their_closed_form(t):
    time = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    gate = [x.detach().requires_grad_() for x in (*TRIO[:2], torch.tensor([0.7]))]
    k = time_gate(time, *gate, leak=1e-3)
    grads = torch.autograd.grad(k.sum(), [time, *gate])
    period, ratio = 100, gate[2].item()
    phase = t % period / period
    slope, by_ratio = 1e-3, 0.0
    if phase < ratio:
        slope = 2 / ratio if phase < ratio / 2 else -2 / ratio
        by_ratio = -slope * phase / ratio
    wanted = [slope / period, -slope * t / period**2, -slope / period, by_ratio]
    for grad, value in zip(grads, wanted, strict=True):
        assert grad.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("ratio", [1e-45, 1e-38, 1e-20])
def test_a_tiny_on_ratio_has_finite_gradients(ratio):
    times = torch.tensor([0.0, 1, 50], requires_grad=True)
    gate = [x.detach().requires_grad_() for x in (*TRIO[:2], torch.tensor([ratio]))]
    grads = torch.autograd.grad(
        time_gate(times, *gate, leak=1e-3)[1:].sum(), [times, *gate], allow_unused=True
    )
    assert all(grad.isfinite().all() for grad in grads)


def test_it_compiles_into_one_graph():
    times = torch.rand(6, 3, dtype=torch.float64) * 3.6e9
    gate = [x.requires_grad_() for x in parameters()]
    compiled = torch.compile(lambda t, *x: time_gate(t, *x, leak=1e-3), fullgraph=True)
    k, ours = time_gate(times, *gate, leak=1e-3), compiled(times, *gate)
    torch.testing.assert_close(ours, k)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), gate), torch.autograd.grad(k.sum(), gate), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_it_exports_with_any_number_of_steps():
    class Gate(torch.nn.Module):
        def forward(self, times, period, shift, on_ratio):
            return time_gate(times, period, shift, on_ratio, 1e-3)

    shapes = ({0: torch.export.Dim("T")}, None, None, None)
    program = torch.export.export(
        Gate(), (torch.rand(6, 3), *parameters()), dynamic_shapes=shapes
    ).module()
    times = torch.rand(11, 3) * 100
    torch.testing.assert_close(program(times, *parameters()), time_gate(times, *parameters(), 1e-3))


def test_it_maps_over_a_dimension():
    gate = parameters()
    times, periods = torch.rand(4, 7) * 100, torch.rand(4, 5) * 10 + 1
    mapped = torch.vmap(time_gate, in_dims=(0, 0, None, None, None))(times, periods, *gate[1:], 0.1)
    one_by_one = [time_gate(t, p, *gate[1:], 0.1) for t, p in zip(times, periods, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(one_by_one), rtol=0, atol=1e-5)


def value_and_grads(fn, inputs, cotangent):
    inputs = [x.detach().requires_grad_() for x in inputs]
    k = fn(*inputs, 0.1)
    return [k, *torch.autograd.grad(k, inputs, cotangent.to(k.dtype))]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_pass_each_way_agrees_with_the_definition(kernel, dtype, threads):
    torch.set_num_threads(threads)
    for shape, n in [((), 1), ((1, 1), 3), ((0,), 4), ((7, 3), 0), ((2, 150), 37)]:
        times = torch.rand(shape, dtype=torch.float64) * 400 - 100
        gate = parameters(n, dtype)
        cotangent = torch.randn(*shape, n, dtype=torch.float64)
        ours = value_and_grads(time_gate, [times, *gate], cotangent)
        exact = value_and_grads(time_gate_plain, [times, *(x.double() for x in gate)], cotangent)
        assert [x.dtype for x in ours] == [dtype, torch.float64, dtype, dtype, dtype]
        for o, e in zip(ours, exact, strict=True):
            scale = e.detach().abs().max().clamp(min=1).item() if e.numel() else 1
            # Slopes are up to 40. Without a fused multiply-add, 400 periods are a rounded product.
            allowed = (64 * torch.finfo(dtype).eps + 40 * 400 * 2**-52) * scale
            torch.testing.assert_close(o.double(), e, rtol=0, atol=allowed)


def test_arguments_of_any_stride():
    times = torch.rand(6, 8)[::2, ::3].T
    gate = [torch.stack([x, x], -1)[:, 0] for x in parameters()]
    dense = [x.contiguous() for x in (times, *gate)]
    assert torch.equal(time_gate(times, *gate, 0.1), time_gate(*dense, 0.1))


def test_the_op_is_registered_in_full():
    inputs = [torch.rand(3, 4, dtype=torch.float64) * 100, *parameters(dtype=torch.float64)]
    inputs = [x.requires_grad_() for x in inputs]
    torch.library.opcheck(torch.ops.longrnn.time_gate.default, (*inputs, 0.1))
    k = time_gate(*(x.to("meta") for x in inputs), 0.1)
    assert k.shape == (3, 4, 5)
    assert k.device.type == "meta"


BAD = [
    ("times", torch.arange(3), "times must have a floating dtype, got torch.int64"),
    ("period", torch.ones(2, 5), r"period must have shape \(n\), got \(2, 5\)"),
    ("period", torch.tensor(3.0), r"period must have shape \(n\), got \(\)"),
    ("shift", torch.zeros(4), r"shift must have shape \(n=5\), got \(4,\)"),
    ("on_ratio", torch.ones(1), r"on_ratio must have shape \(n=5\), got \(1,\)"),
    ("on_ratio", torch.ones(5, dtype=torch.long), "on_ratio must have a floating dtype"),
    ("shift", torch.zeros(5, device="meta"), r"shift must be on times's device \(cpu\), got meta"),
    ("period", torch.tensor([1, 2, 0, 3, -1.0]), "period must be positive and finite, got 0.0"),
    ("period", torch.full((5,), float("inf")), "period must be positive and finite, got inf"),
    ("shift", torch.full((5,), float("nan")), "shift must be finite, got nan"),
    ("on_ratio", torch.tensor([1, 0, 0.5, 1, 1]), r"on_ratio must be in \(0, 1\], got 0.0"),
    ("on_ratio", torch.full((5,), 1.5), r"on_ratio must be in \(0, 1\], got 1.5"),
    ("leak", -0.1, r"leak must be a number in \[0, 1\], got -0.1"),
    ("leak", True, r"leak must be a number in \[0, 1\], got True"),
    ("leak", torch.tensor(0.1), r"leak must be a number in \[0, 1\], got tensor"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_what_is_wrong_is_named(name, value, message):
    arguments = dict(zip(("period", "shift", "on_ratio"), parameters(), strict=True))
    arguments |= {"times": torch.rand(3), "leak": 0.1, name: value}
    with pytest.raises(ValueError, match=message):
        time_gate(**arguments)
