import functools

import pytest
import torch
from torch.utils.data import DataLoader

from longrnn.batching import collate_packed, collate_padded, pack_end_to_end, pad_to_bucket

SAMPLES = [(torch.full((n, 2), float(n)), n % 3, torch.ones(4)) for n in (3, 7, 0, 5)]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("buckets", "T"), [(None, 7), ([4, 8, 16], 8), ([7], 7)])
def test_padded_to_the_smallest_bucket_that_holds_the_longest(buckets, T, batch_first):
    collate = functools.partial(collate_padded, buckets=buckets, batch_first=batch_first)
    values, lengths, labels, rest = next(iter(DataLoader(SAMPLES, 4, collate_fn=collate)))
    assert lengths.tolist() == [3, 7, 0, 5]
    assert labels.tolist() == [0, 1, 0, 2]
    assert rest.shape == (4, 4)
    assert values.shape == ((4, T, 2) if batch_first else (T, 4, 2))
    for row, (sequence, *_) in zip(
        values if batch_first else values.unbind(1), SAMPLES, strict=True
    ):
        assert torch.equal(row[: len(sequence)], sequence)
        assert not row[len(sequence) :].any()


def test_packed_end_to_end():
    values, ends, labels, _ = next(iter(DataLoader(SAMPLES, 4, collate_fn=collate_packed)))
    assert ends.tolist() == [0, 3, 10, 10, 15]
    assert torch.equal(values, torch.cat([sequence for sequence, *_ in SAMPLES]))
    assert labels.tolist() == [0, 1, 0, 2]


def test_a_sequence_without_a_bucket_is_named():
    with pytest.raises(ValueError, match="sequences must fit the last bucket, 5 steps, got 7"):
        pad_to_bucket([sequence for sequence, *_ in SAMPLES], [3, 5])


@pytest.mark.parametrize(
    ("sequences", "came"),
    [
        ([], "got none"),
        ([torch.ones(3, 2), torch.ones(2, 1)], r"got \(T, 1\) .* beside \(T, 2\) torch.float32"),
        ([torch.ones(3), torch.ones(2).long()], r"got \(T\) .* beside \(T\) torch.int64"),
    ],
)
@pytest.mark.parametrize("join", [pad_to_bucket, pack_end_to_end])
def test_sequences_that_are_not_alike_are_named(join, sequences, came):
    with pytest.raises(
        ValueError, match="sequences must be one or more, alike in all but T, " + came
    ):
        join(sequences)


@pytest.mark.parametrize("collate", [collate_padded, collate_packed])
@pytest.mark.parametrize("sample", [torch.ones(4, 3), {"x": torch.ones(2)}], ids=type)
def test_a_sample_that_is_no_tuple_is_named(collate, sample):
    name = type(sample).__name__
    with pytest.raises(ValueError, match=rf"samples must be tuples \(sequence, ...\), got {name}"):
        collate([sample, sample])
