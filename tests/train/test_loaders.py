import types

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device

from longrnn.tasks import Sequences, create_task
from longrnn.train.loaders import Shares, create_loaders
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
    return task, create_loaders(task, settings, Accelerator(cpu=True))


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
    task, (order, loader, _) = batches(batching)
    expected = [(tuple(x.flatten().tolist()), int(kind)) for x, kind in task.train_set.pairs]
    loader_batches = list(loader)
    seen = [row for batch in loader_batches for row in rows(batch)]
    assert len(expected) % 8 == 4  # so that a batch is not full
    assert sorted(seen) == sorted(expected)
    for (values, *_, ends), _ in loader_batches:
        if ends is not None:
            assert len(values) == ends[-1]
        elif batching != "pad":
            assert values.shape[1] in order.buckets


@pytest.mark.parametrize("model", ["sru", "lstm", "gru"])
def test_every_batching_gives_the_same_answers(model):
    task, (_, loader, _) = batches("bucket")
    sequences, _ = next(iter(loader))
    values, lengths, _, _ = sequences
    network = Network(task, model, 8, 2, pooling="mean")
    alone = [network(v[:n].unsqueeze(0)).output for v, n in zip(values, lengths, strict=True)]
    torch.testing.assert_close(network(sequences).output, torch.cat(alone))
    network.multiplex([20, 60, 100])
    torch.testing.assert_close(network(sequences).output, torch.cat(alone))
    assert sum(network._unrolled[0].stats()["hits"].values()) == 1
    assert len(list(network.parameters())) == len(Network(task, model, 8, 2).state_dict())


def test_sequences_end_to_end_give_the_same_answers():
    task, (_, loader, _) = batches("packed")
    sequences, _ = next(iter(loader))
    values, _, _, ends = sequences
    network = Network(task, "sru", 8, 2, pooling="mean")
    alone = [network(row.unsqueeze(0)).output for row in values.split(ends.diff().tolist())]
    assert len(alone) == 8
    torch.testing.assert_close(network(sequences).output, torch.cat(alone))


@pytest.mark.parametrize("batching", ["pad", "bucket", "mux", "packed"])
def test_the_rest_of_an_epoch_is_what_had_not_come(batching):
    _, (order, loader, _) = batches(batching)
    whole = [rows(batch) for batch in loader]
    loader.set_epoch(0)
    order.load_state_dict(order.state_dict(5))
    assert [rows(batch) for batch in loader] == whole[5:]
    loader.set_epoch(1)
    assert [rows(batch) for batch in loader] != whole


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_each_batch_and_work_together_on_a_tiny_one(processes):
    whole = [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9], [10, 11, 12]]
    shares = zip(*(Shares(whole, processes, k) for k in range(processes)), strict=True)
    for batch, parts in zip(whole, shares, strict=True):
        if len(batch) < processes:
            assert all(part == batch for part in parts)
        else:
            assert [index for part in parts for index in part] == batch
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_lengths_stay_where_their_values_are_known():
    padded = Sequences(torch.ones(2, 3, 1), torch.tensor([3, 2]), times=torch.ones(2, 3))
    moved, target = send_to_device((padded, torch.zeros(2)), "meta")
    assert [x.device.type for x in (moved.values, moved.times, target)] == ["meta"] * 3
    assert moved.lengths is padded.lengths
    joined = Sequences(torch.ones(5, 1), cu_seqlens=torch.tensor([0, 3, 5])).to("meta")
    assert joined.cu_seqlens.is_meta


def test_a_batch_size_that_is_not_for_a_task_is_named():
    settings = create_settings("adding", "gru", batch_size=3)
    two = types.SimpleNamespace(num_processes=2)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 2 processes, got 3"):
        create_loaders(create_task("adding", 3), settings, two)


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
