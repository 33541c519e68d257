import pytest
import torch
from layer_cases import CASES
from phased_cases import CASES as PHASED_CASES
from skip_cases import CASES as SKIP_CASES

import longrnn


def test_every_name_builds_a_layer_called_like_an_lstm():
    assert models_of_torch <= set(longrnn.models())
    for name in longrnn.models():
        layer = longrnn.create_model(name, 3, 4, 2, batch_first=True)
        output, *_ = layer(torch.randn(2, 5, 3))
        assert output.shape == (2, 5, 4), name


models_of_torch = {"lstm", "gru"}


def test_every_layer_has_a_case():
    covered = {case.name for case in [*CASES, *SKIP_CASES, *PHASED_CASES]} | models_of_torch
    assert set(longrnn.models()) == covered


def test_names_of_torch_build_torch():
    assert type(longrnn.create_model("lstm", 3, 4)) is torch.nn.LSTM
    assert type(longrnn.create_model("gru", 3, 4)) is torch.nn.GRU


@pytest.mark.parametrize(
    ("name", "bias", "rows"),
    [
        ("gilr-lstm", "bias_ih_l0", slice(4, 8)),
        ("sru", "bias_ih_l0", slice(4, 8)),
        ("qrnn", "bias_ih_l0", slice(4, 8)),
    ],
)
def test_forget_bias_is_where_the_forget_gate_is(name, bias, rows):
    layer = longrnn.create_model(name, 3, 4, forget_bias=2.5)
    values = getattr(layer, bias)
    assert (values[rows] == 2.5).all()
    assert values.sum() == 2.5 * 4
    layer = longrnn.create_model(name, 3, 4, bias=False, forget_bias=2.5)
    assert all("bias" not in parameter for parameter in layer.state_dict())


def shapes(layer):
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gilr", {"weight_ih": (8, 3), "bias_ih": (8,)}),
        (
            "gilr-lstm",
            {
                "weight_is": (8, 3),
                "bias_is": (8,),
                "weight_ih": (16, 3),
                "weight_sh": (16, 4),
                "bias_ih": (16,),
            },
        ),
        ("sru", {"weight_ih": (12, 3), "bias_ih": (12,), "weight_highway": (4, 3)}),
        ("qrnn", {"weight_ih": (12, 6), "bias_ih": (12,)}),
        ("strongly-typed-rnn", {"weight_ih": (8, 3), "bias_ih": (4,)}),
        ("strongly-typed-gru", {"weight_ih": (12, 6), "bias_ih": (12,)}),
        ("strongly-typed-lstm", {"weight_ih": (12, 6), "bias_ih": (12,)}),
        ("min-gru", {"weight_ih": (8, 3), "bias_ih": (8,)}),
        ("min-lstm", {"weight_ih": (12, 3), "bias_ih": (12,)}),
        ("parallel-gru", {"weight_ih": (12, 3), "bias_ih": (12,), "weight_hh": (3, 4)}),
        (
            "parallel-lstm",
            {
                "weight_ih": (12, 3),
                "bias_ih": (12,),
                "weight_hh": (3, 4),
                "weight_peephole": (2, 4),
            },
        ),
    ],
)
def test_parameters_are_named_and_shaped_as_documented(name, wanted):
    layer = longrnn.create_model(name, 3, 4)
    assert shapes(layer) == {f"{key}_l0": shape for key, shape in wanted.items()}
    both = longrnn.create_model(name, 3, 4, bidirectional=True, num_layers=2)
    for key in wanted:
        assert {f"{key}_l0", f"{key}_l0_reverse"} <= set(shapes(both)), key
    assert "weight_ih_l1_reverse" in shapes(both)


@pytest.mark.parametrize(("name", "starts"), [("skip-lstm", {"h_0", "c_0"}), ("skip-gru", {"h_0"})])
def test_a_skip_layer_adds_a_gate_and_a_start_to_what_torch_has(name, starts):
    theirs = shapes(longrnn.create_model(name.removeprefix("skip-"), 3, 4, 2))
    gate = {"weight_u": (1, 4), "bias_u": (1,)}
    wanted = theirs | gate | dict.fromkeys(starts, (2, 1, 4))
    assert shapes(longrnn.create_model(name, 3, 4, 2)) == wanted
    without = longrnn.create_model(name, 3, 4, bias=False, learn_initial_state=False)
    assert shapes(without) == {k: theirs[k] for k in ("weight_ih_l0", "weight_hh_l0")} | gate


def test_a_skip_gilr_lstm_adds_a_gate_and_a_start_to_a_gilr_lstm():
    theirs = shapes(longrnn.create_model("gilr-lstm", 3, 4, 2))
    starts = dict.fromkeys(("surrogate_0", "c_0"), (2, 1, 4))
    wanted = theirs | {"weight_u": (1, 3), "bias_u": (1,)} | starts
    assert shapes(longrnn.create_model("skip-gilr-lstm", 3, 4, 2)) == wanted


def test_repr_shows_what_differs_from_the_defaults():
    layer = longrnn.QRNN(3, 4, 2, bidirectional=True, kernel_size=3)
    assert repr(layer) == (
        "QRNN(3, 4, num_layers=2, bidirectional=True, kernel_size=3, forget_bias=1.0)"
    )
