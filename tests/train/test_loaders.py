import pytest
import torch
from accelerate import Accelerator

from longrnn.tasks import create_task
from longrnn.train.loaders import create_loaders, rest_of_epoch
from longrnn.train.network import Network
from longrnn.train.settings import create_settings


@pytest.fixture(autouse=True)
def few_chirps(monkeypatch):
    monkeypatch.setattr("longrnn.tasks.spoken_digits._MADE", (10, 2))


def batches(batching, model="sru"):
    settings = create_settings(
        "spoken-digits", model, batch_size=8, batching=batching, task_options={"frame": 64}
    )
    task = create_task("spoken-digits", 8, frame=64)
    loader, test = create_loaders(task, settings, Accelerator(cpu=True))
    return task, loader, test


def rows(batch):
    """Each sequence of a batch without its padding, as a tuple of numbers, with its answer."""
    (values, lengths, _, ends), targets = batch
    if ends is None:
        sequences = [row[:n] for row, n in zip(values, lengths, strict=True)]
    else:
        sequences = values.split(ends.diff().tolist())
    pairs = zip(sequences, targets, strict=True)
    return [(tuple(sequence.flatten().tolist()), int(target)) for sequence, target in pairs]


@pytest.mark.parametrize("batching", ["pad", "bucket", "mux", "packed"])
def test_every_sequence_comes_once_with_its_own_answer(batching):
    task, loader, _ = batches(batching)
    expected = [(tuple(x.flatten().tolist()), int(kind)) for x, kind in task.train_set.pairs]
    loader_batches = list(loader)
    seen = [row for batch in loader_batches for row in rows(batch)]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(expected)
    dropped = len(expected) % 8 if batching in ("pad", "packed") else 0
    assert len(seen) == len(expected) - dropped
    for (values, *_, ends), _ in loader_batches:
        if ends is not None:
            assert len(values) == ends[-1]
        elif batching != "pad":
            assert values.shape[1] in loader.buckets


@pytest.mark.parametrize("model", ["sru", "lstm", "gru"])
def test_every_batching_gives_the_same_answers(model):
    task, loader, _ = batches("bucket")
    (values, lengths, _, _), _ = next(iter(loader))
    network = Network(task, model, 8, 2, pooling="mean")
    alone = [network(v[:n].unsqueeze(0)).output for v, n in zip(values, lengths, strict=True)]
    sequences = next(iter(loader))[0]
    torch.testing.assert_close(network(sequences).output, torch.cat(alone))
    network.multiplex([20, 60, 100])
    torch.testing.assert_close(network(sequences).output, torch.cat(alone))
    assert sum(network._unrolled[0].stats()["hits"].values()) == 1
    assert len(list(network.parameters())) == len(Network(task, model, 8, 2).state_dict())


def test_the_rest_of_an_epoch_is_what_had_not_come():
    _, loader, _ = batches("mux")
    whole = [rows(batch) for batch in loader]
    rest = rest_of_epoch(loader, 5, Accelerator(cpu=True))
    assert [rows(batch) for batch in rest] == whole[5:]
    loader.set_epoch(1)
    assert [rows(batch) for batch in loader] != whole


@pytest.mark.parametrize(
    ("task", "batching", "message"),
    [
        ("adding", "mux", "batching must be pad for task adding, which does not tell its lengths"),
        ("nmnist", "bucket", "batching must be pad for task nmnist, which does not tell its"),
        ("adding", "packed", "batching must be pad for task adding, whose sequences are of one"),
        ("adding", "sorted", "batching must be one of pad, bucket, mux, packed; got 'sorted'"),
    ],
)
def test_batching_that_a_task_does_not_allow_is_named(task, batching, message):
    def create():
        settings = create_settings(task, "gru", batching=batching)
        create_loaders(create_task(task, 4), settings, Accelerator(cpu=True))

    with pytest.raises(ValueError, match=message):
        create()


def test_a_layer_that_cannot_be_packed_is_named(tiny):
    with pytest.raises(ValueError, match="cu_seqlens must be for a layer that takes it, got lstm"):
        tiny("spoken-digits", "lstm", batching="packed", steps=1, task_options={"frame": 64})
