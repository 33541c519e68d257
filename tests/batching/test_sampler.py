import collections
import itertools
import json
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from longrnn.batching import LengthBucketBatchSampler, bucket_indices, plan_buckets

LENGTHS = torch.randint(1, 200, (997,), generator=torch.Generator().manual_seed(0))
BUCKETS = plan_buckets(LENGTHS, 5)
OF = bucket_indices(LENGTHS, BUCKETS).tolist()


def sampler(batch_size=16, **given):
    return LengthBucketBatchSampler(LENGTHS, batch_size, BUCKETS, **given)


def seen(batches):
    return collections.Counter(itertools.chain.from_iterable(batches))


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_sample_comes_once_and_a_batch_lies_in_one_bucket(shuffle):
    one = sampler(shuffle=shuffle)
    batches = list(one)
    assert seen(batches) == dict.fromkeys(range(len(LENGTHS)), 1)
    assert all(len({OF[i] for i in batch}) == 1 for batch in batches)
    assert len(one) == len(batches)
    full = collections.Counter(OF)
    short = [batch for batch in batches if len(batch) < 16]
    assert len(short) == sum(count % 16 > 0 for count in full.values())


def test_full_batches_alone_where_the_last_are_dropped():
    one = sampler(drop_last=True)
    assert {len(batch) for batch in one} == {16}
    assert len(one) == sum(count // 16 for count in collections.Counter(OF).values())


def test_short_and_long_batches_come_in_no_order():
    buckets = [OF[batch[0]] for batch in sampler()]
    runs = sum(a != b for a, b in itertools.pairwise(buckets))
    assert runs > len(buckets) / 2  # sorted, there would be 4
    members = [LENGTHS[batch].float() for batch in sampler() if len(batch) == 16]
    rising = sum((m.diff() > 0).sum().item() for m in members) / (15 * len(members))
    assert 0.4 < rising < 0.6


def test_seed_and_epoch_decide_the_order():
    one = sampler(seed=3)
    first = list(one)
    assert first == list(one) == list(sampler(seed=3))
    one.set_epoch(1)
    assert list(one) != first
    assert list(one) != list(sampler(seed=4))  # no seed's second epoch is another's first
    one.set_epoch(0)
    assert list(one) == first
    assert list(sampler(seed=4)) != first


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(sampler())
    assert torch.equal(before, torch.get_rng_state())


def test_batches_of_short_sequences_are_larger_within_a_number_of_steps():
    sizes = collections.defaultdict(set)
    for batch in sampler(None, max_steps=1000):
        sizes[OF[batch[0]]].add(len(batch))
    for k, bucket in enumerate(BUCKETS):
        assert max(sizes[k]) == 1000 // bucket
    assert max(len(batch) for batch in sampler(9, max_steps=1000)) == 9


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_share_every_batch_evenly(ranks):
    shares = [list(sampler(4, num_replicas=ranks, rank=r)) for r in range(ranks)]
    assert seen(itertools.chain(*shares)) == dict.fromkeys(range(len(LENGTHS)), 1)
    for step in zip(*shares, strict=True):
        assert len({OF[i] for batch in step for i in batch}) == 1
        assert max(map(len, step)) - min(map(len, step)) <= 1
        assert min(map(len, step)) >= 1


@pytest.mark.parametrize(("lengths", "batch_size"), [([5, 5, 5, 9], 4), ([5] * 10, 1)])
def test_no_rank_goes_without_even_where_samples_do_not_suffice(lengths, batch_size):
    shares = [
        list(LengthBucketBatchSampler(lengths, batch_size, [5, 9], num_replicas=4, rank=r))
        for r in range(4)
    ]
    assert len({len(share) for share in shares}) == 1
    counts = seen(itertools.chain(*shares))
    assert set(counts) == set(range(len(lengths)))
    assert all(batch for share in shares for batch in share)


def test_a_loaded_state_goes_on_at_the_next_batch():
    whole = sampler(seed=5)
    whole.set_epoch(2)
    batches = list(whole)
    for k in (0, 1, 7, len(batches)):
        part = sampler(seed=5)
        part.set_epoch(2)
        begun = iter(part)
        for _ in range(k):
            next(begun)
        state = json.loads(json.dumps(part.state_dict()))
        resumed = sampler(seed=5)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        resumed.set_epoch(2)  # as a training loop does at the head of each epoch
        assert list(resumed) == batches[k:]
        assert list(resumed) == batches  # the next time it is a whole epoch again


def test_another_epoch_forgets_the_place_in_this_one():
    one = sampler()
    one.load_state_dict(one.state_dict(batches=5))
    one.set_epoch(1)
    assert len(list(one)) == len(one)


def test_a_loader_with_workers_resumes_by_the_batches_that_it_gave():
    one = sampler()
    loader = DataLoader(range(len(LENGTHS)), batch_sampler=one, num_workers=1, prefetch_factor=4)
    given = iter(loader)
    kept = [next(given).tolist() for _ in range(3)]
    assert one.state_dict()["batch"] > 3  # it has fetched ahead
    other = sampler()
    other.load_state_dict(one.state_dict(batches=3))
    assert kept + list(other) == list(sampler())


def test_the_state_of_another_order_is_refused():
    one = LengthBucketBatchSampler(LENGTHS, 16, [20, 200])
    for lengths, size, buckets, given in (
        (LENGTHS, 16, [20, 200], {"seed": 1}),
        (LENGTHS, 16, [20, 200], {"shuffle": False}),
        (LENGTHS, 16, [20, 200], {"num_replicas": 2, "rank": 0}),
        (LENGTHS, 16, [20, 200], {"drop_last": True}),
        (LENGTHS, 8, [20, 200], {}),
        (LENGTHS, 16, [21, 200], {}),
        (LENGTHS.flip(0), 16, [20, 200], {}),
    ):
        other = LengthBucketBatchSampler(lengths, size, buckets, **given)
        with pytest.raises(ValueError, match="state must be that of a sampler with"):
            one.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="state must be that of a sampler with"):
        one.load_state_dict({})
    wide, narrow = (
        LengthBucketBatchSampler([9] * 40, None, [10], max_steps=steps) for steps in (40, 49)
    )
    narrow.load_state_dict(wide.state_dict())  # batches of four, both


@pytest.mark.parametrize("batches", [-3, 10**6])
def test_a_place_outside_the_epoch_is_refused(batches):
    with pytest.raises(ValueError, match=rf"state must have a batch in \[0, \d+\], got {batches}"):
        sampler().load_state_dict(sampler().state_dict(batches))


def test_a_sampler_survives_pickling():
    assert list(pickle.loads(pickle.dumps(sampler()))) == list(sampler())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buckets": [100, 150]}, "buckets must reach the longest sample, 199 steps, got 150"),
        ({"buckets": [200, 100]}, "buckets must be positive and ascending"),
        ({"buckets": []}, "buckets must hold at least one integer, got none"),
        ({"buckets": 200}, "buckets must be integers, got 200"),
        ({"buckets": "48"}, "buckets must be integers, got '48'"),
        ({"buckets": [5.5, 200]}, "buckets must have dtype int32 or int64, got torch.float32"),
        ({"max_steps": 2e3}, "max_steps must be a positive integer, got 2000.0"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": None}, "batch_size must be given where max_steps is not"),
        ({"max_steps": 150}, "max_steps must hold a sequence of the last bucket, 199 steps"),
        ({"rank": 1}, "num_replicas and rank must be given both or neither"),
        ({"num_replicas": 2, "rank": 2}, r"rank must lie in \[0, 1\], got 2"),
    ],
)
def test_what_cannot_be_batched_is_named(given, message):
    given = {"batch_size": 4, "buckets": BUCKETS} | given
    assert int(LENGTHS.max()) == 199
    with pytest.raises(ValueError, match=message):
        LengthBucketBatchSampler(LENGTHS, **given)
