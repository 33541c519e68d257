"""Bad calls get one error, before any work, that names the argument at fault."""

import re

import pytest
import torch
from layer_cases import PLAIN
from skip_cases import PLAIN as PLAIN_SKIP
from torch.nn.utils.rnn import pack_sequence

import longrnn

each_layer = pytest.mark.parametrize("case", [*PLAIN, *PLAIN_SKIP], ids=str)


def tensor(*values):
    return torch.tensor(values)


X = torch.randn(5, 2, 3)
FLAT = torch.randn(5, 3)
CALLS = {
    "rank": ((torch.randn(5),), {}, "input must have shape (T, B, m=3), got (5,)"),
    "features": ((torch.randn(5, 2, 4),), {}, "input must have shape (T, B, m=3), got (5, 2, 4)"),
    "unbatched features": ((torch.randn(5, 4),), {}, "input must have shape (T, m=3), got (5, 4)"),
    "integers": ((X.long(),), {}, "input must have a floating dtype, got torch.int64"),
    "dtype": ((X.double(),), {}, "input must have the layer's dtype (torch.float32), got torch.f"),
    "device": ((X.to("meta"),), {}, "input must be on the layer's device (cpu), got meta"),
    "lengths and ends": (
        (X,),
        {"lengths": tensor(5, 5), "cu_seqlens": tensor(0, 5)},
        "lengths and cu_seqlens must not both be given",
    ),
    "lengths count": ((X,), {"lengths": tensor(5)}, "lengths must have shape (B=2), got (1,)"),
    "lengths dtype": ((X,), {"lengths": tensor(5.0, 1.0)}, "lengths must have dtype int32 or int"),
    "lengths too long": ((X,), {"lengths": tensor(6, 1)}, "lengths must lie in [0, T=5], got [6,"),
    "lengths negative": ((X,), {"lengths": tensor(1, -1)}, "lengths must lie in [0, T=5], got [1,"),
    "unbatched lengths": ((FLAT,), {"lengths": tensor(7)}, "lengths must lie in [0, T=5], got [7"),
    "ends rank": ((X,), {"cu_seqlens": tensor(0, 5)}, "input must have shape (T, m=3), got (5, 2"),
    "ends": ((FLAT,), {"cu_seqlens": tensor(0, 4)}, "cu_seqlens must run from 0 to T=5, got [0, 4"),
    "ends fall": ((FLAT,), {"cu_seqlens": tensor(0, 4, 3, 5)}, "cu_seqlens must ascend, got 3 aft"),
    "one end": ((FLAT,), {"cu_seqlens": tensor(5)}, "cu_seqlens must hold at least two entries"),
    "packed and lengths": (
        (pack_sequence([FLAT]),),
        {"lengths": tensor(5)},
        "lengths must be None where input is a PackedSequence",
    ),
    "packed and ends": (
        (pack_sequence([FLAT]),),
        {"cu_seqlens": tensor(0, 5)},
        "cu_seqlens must be None where input is a PackedSequence",
    ),
}


@each_layer
@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call_says_what_is_wrong(case, call):
    arguments, settings, message = CALLS[call]
    layer = longrnn.create_model(case.name, 3, 4, **case.options)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(*arguments, **settings)


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("input", [1.0], TypeError, "input must be a tensor, got list"),
        ("lengths", [5, 5], TypeError, "lengths must be an integer tensor, got list"),
        ("cu_seqlens", [0, 5], TypeError, "cu_seqlens must be an integer tensor, got list"),
    ],
)
def test_a_list_is_no_tensor(name, given, error, message):
    x = FLAT if name == "cu_seqlens" else X
    arguments = {"input": x} | {name: given}
    with pytest.raises(error, match=re.escape(message)):
        longrnn.GILR(3, 4)(**arguments)


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        ("gilr", torch.zeros(1, 3, 4), "state must have shape (L*D=1, B=2, n=4), got (1, 3, 4)"),
        ("gilr", torch.zeros(2, 4), "state must have shape (L*D=1, B=2, n=4), got (2, 4)"),
        ("gilr", (torch.zeros(1, 2, 4),), "state must be a tensor, got tuple"),
        ("gilr", torch.zeros(1, 2, 4).long(), "state must have a floating dtype, got torch.int64"),
        ("gilr", torch.zeros(1, 2, 4, device="meta"), "state must be on input's device (cpu), got"),
        (
            "gilr-lstm",
            torch.zeros(1, 2, 4),
            "state must be a tuple of (surrogate, c), got Tensor",
        ),
        (
            "gilr-lstm",
            (torch.zeros(1, 2, 4),),
            "state must be a tuple of (surrogate, c), got tuple of 1",
        ),
        (
            "gilr-lstm",
            (torch.zeros(1, 2, 4), torch.zeros(1, 2, 5)),
            "state.c must have shape (L*D=1, B=2, n=4), got (1, 2, 5)",
        ),
        (
            "qrnn",
            (torch.zeros(1, 2, 4), torch.zeros(1, 2, 3)),
            "state.inputs must be a tuple of 1 tensors, got Tensor",
        ),
        (
            "qrnn",
            (torch.zeros(1, 2, 4), (torch.zeros(2, 2, 3),)),
            "state.inputs[0] must have shape (kept=1, B=2, m=3), got (2, 2, 3)",
        ),
    ],
)
def test_a_bad_state_says_what_is_wrong(name, state, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        longrnn.create_model(name, 3, 4)(X, state)


def test_a_bad_state_of_other_layouts_says_what_is_wrong():
    layer = longrnn.GILR(3, 4)
    with pytest.raises(
        ValueError, match=re.escape("state must have shape (L*D=1, n=4), got (1, 1")
    ):
        layer(FLAT, torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match=re.escape("state must have shape (L*D=1, B=2, n=4), got")):
        layer(FLAT, torch.zeros(1, 1, 4), cu_seqlens=tensor(0, 3, 5))
    packed = pack_sequence([FLAT[:2], FLAT], enforce_sorted=False)
    with pytest.raises(ValueError, match=re.escape("state must have shape (L*D=1, B=2, n=4), got")):
        layer(packed, torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gilr", {"input_size": 0}, "input_size must be a positive integer, got 0"),
        ("gilr", {"hidden_size": -1}, "hidden_size must be a positive integer, got -1"),
        ("sru", {"num_layers": 0}, "num_layers must be a positive integer, got 0"),
        ("sru", {"hidden_size": 2.5}, "hidden_size must be a positive integer, got 2.5"),
        ("sru", {"dropout": 1.5}, "dropout must be a probability in [0, 1], got 1.5"),
        ("sru", {"dropout": "much"}, "dropout must be a probability in [0, 1], got 'much'"),
        ("gilr", {"activation": "step"}, "activation must be one of tanh, elu, identity, relu; go"),
        ("sru", {"activation": "relu"}, "activation must be one of identity, tanh; got 'relu'"),
        ("qrnn", {"kernel_size": 0}, "kernel_size must be a positive integer, got 0"),
        ("grru", {}, "name must be one of gilr, gilr-lstm, sru, qrnn, strongly-typed-rnn"),
    ],
)
def test_a_bad_setting_says_what_is_wrong(name, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        longrnn.create_model(name, **{"input_size": 3, "hidden_size": 4, **settings})


def test_an_option_of_another_layer_is_refused():
    with pytest.raises(TypeError, match="kernel_size"):
        longrnn.create_model("gilr", 3, 4, kernel_size=2)


def test_dropout_with_one_layer_warns_as_torch_does():
    with pytest.warns(UserWarning, match="dropout=0.5 and num_layers=1"):
        longrnn.GILR(3, 4, dropout=0.5)
