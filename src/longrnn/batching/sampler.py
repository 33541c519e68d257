"""Batches of sequences of about one length, in an order that knows nothing of lengths."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from longrnn import _checks
from longrnn.batching.plan import bucket_indices, check_buckets, check_sequence_lengths


class LengthBucketBatchSampler(Sampler[list[int]]):
    """A `DataLoader`'s batch sampler: every batch lies in one bucket, every sample comes once.

    Each epoch shuffles the members of each bucket and then the order of all batches, so that long
    and short batches alternate as chance has it. Nothing is sorted inside a bucket.

    On several ranks, step k is one batch of one bucket, shared out evenly: all ranks take as many
    steps, and at each the same bucket and, give or take one, as many sequences. Where that cannot
    be done (a bucket holds fewer samples than there are ranks, or `batch_size` is 1 and they do
    not come out even), a few samples come twice, as in torch's `DistributedSampler`.

    Args:
        lengths: Steps of each sample, in the data set's order.
        batch_size: Sequences in a batch of one rank; None where `max_steps` alone decides.
        buckets: Ascending; see `plan_buckets`. The last must hold the longest sample.
        shuffle: Whether to shuffle. If not, batches go from the shortest bucket to the longest.
        seed: Of the order, together with the epoch.
        drop_last: Whether to leave out each bucket's last batch if it is not full.
        max_steps: The steps, padding included, that a batch of one rank may hold, so that batches
            of short sequences are larger.
        num_replicas: Ranks that share the data; those of `torch.distributed` if None.
        rank: This one's number.

    Raises:
        ValueError: If a length exceeds the last bucket, `max_steps` is below it, or a size, number
            or bucket is not as above.

    Example:
        >>> sampler = LengthBucketBatchSampler([5, 9, 4, 10, 3], 2, [5, 10], shuffle=False)
        >>> list(sampler)
        [[0, 2], [4], [1, 3]]
    """

    def __init__(
        self,
        lengths: Sequence[int] | Tensor,
        batch_size: int | None,
        buckets: Sequence[int],
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        max_steps: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ):
        found = check_sequence_lengths(lengths)
        self.buckets = check_buckets(buckets)
        if int(found.max()) > self.buckets[-1]:
            raise ValueError(
                f"buckets must reach the longest sample, {int(found.max())} steps, "
                f"got {self.buckets[-1]} as the last"
            )
        self.num_replicas, self.rank = _place(num_replicas, rank)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self._members: list[Tensor] = []  # indices of the samples in each bucket
        self._parts: list[tuple[int, int]] = []  # this rank's part of each batch among the members
        bucket_of = bucket_indices(found, self.buckets)
        sizes = _batch_sizes(batch_size, max_steps, self.buckets)
        begin = 0
        for k, size in enumerate(sizes):
            members = (bucket_of == k).nonzero().flatten()
            self._members.append(members)
            for part in _shared(len(members), size, self.num_replicas, self.rank, drop_last):
                self._parts.append((begin + part[0], begin + part[1]))
            begin += len(members)
        given = f"{found.tolist()} {self.buckets} {sizes} {drop_last}"
        self._digest = hashlib.sha256(given.encode()).hexdigest()[:16]
        self._start = self._handed_out = 0

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self._parts)

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's batches of the epoch; after `load_state_dict`, those that are left of it."""
        start, self._start = self._start, 0
        self._handed_out = start
        members, order = self._draw()
        for k in order[start:]:
            self._handed_out += 1
            begin, end = self._parts[k]
            yield members[begin:end].tolist()

    def set_epoch(self, epoch: int) -> None:
        """Go to the order of an epoch, and to its beginning unless the sampler is in it already."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._start = self._handed_out = 0

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Where the epoch stands: a few numbers, from which `load_state_dict` goes on at once.

        Args:
            batches: Batches of this epoch that were trained on. None counts those handed out,
                which are more where a `DataLoader` with workers fetches ahead.
        """
        return {
            "epoch": self.epoch,
            "batch": self._handed_out if batches is None else batches,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called: the next iteration is the rest of that epoch.

        Raises:
            ValueError: If it is the state of another order: of other data, buckets, sizes, seed or
                ranks; or its place is not in the epoch.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"state must be that of a sampler with {name} {value}, got {state.get(name)}"
                )
        if not 0 <= state["batch"] <= len(self):
            raise ValueError(f"state must have a batch in [0, {len(self)}], got {state['batch']}")
        self.epoch = state["epoch"]
        self._start = self._handed_out = state["batch"]

    def _identity(self) -> dict[str, Any]:
        """What decides the order, besides the epoch."""
        return {
            "shuffle": self.shuffle,
            "seed": self.seed,
            "num_replicas": self.num_replicas,
            "lengths_and_sizes": self._digest,
        }

    def _draw(self) -> tuple[Tensor, list[int]]:
        """The members, bucket by bucket, and the order of the batches."""
        if not self.shuffle:
            return torch.cat(self._members), list(range(len(self)))
        # Hashed, so that no seed's second epoch is another's first.
        digest = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        shuffled = [m[torch.randperm(len(m), generator=generator)] for m in self._members]
        return torch.cat(shuffled), torch.randperm(len(self), generator=generator).tolist()


def _place(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """The number of ranks, and this one's."""
    if num_replicas is None and rank is None:
        if not (dist.is_available() and dist.is_initialized()):
            return 1, 0
        return dist.get_world_size(), dist.get_rank()
    if num_replicas is None or rank is None:
        raise ValueError(
            "num_replicas and rank must be given both or neither, "
            f"got num_replicas={num_replicas} and rank={rank}"
        )
    _checks.check_positive(num_replicas=num_replicas)
    if not 0 <= rank < num_replicas:
        raise ValueError(f"rank must lie in [0, {num_replicas - 1}], got {rank}")
    return num_replicas, rank


def _batch_sizes(batch_size: int | None, max_steps: int | None, buckets: list[int]) -> list[int]:
    """How many sequences a batch of each bucket holds."""
    if batch_size is None and max_steps is None:
        raise ValueError("batch_size must be given where max_steps is not, got None")
    if batch_size is not None:
        _checks.check_positive(batch_size=batch_size)
    if max_steps is None:
        return [batch_size] * len(buckets)  # type: ignore[list-item]
    _checks.check_positive(max_steps=max_steps)
    if max_steps < buckets[-1]:
        raise ValueError(
            f"max_steps must hold a sequence of the last bucket, {buckets[-1]} steps, "
            f"got {max_steps}"
        )
    return [min(max_steps // bucket, batch_size or max_steps) for bucket in buckets]


def _shared(
    samples: int, batch_size: int, num_replicas: int, rank: int, drop_last: bool
) -> Iterator[tuple[int, int]]:
    """A rank's part of each batch of a bucket, as (begin, end) among its samples."""
    full = batch_size * num_replicas
    batches = [full] * (samples // full)
    rest = samples % full
    if rest and not drop_last:
        if rest < num_replicas and batches and batch_size > 1:  # so that no rank goes without
            batches[-1] -= num_replicas - rest
            rest = num_replicas
        batches.append(rest)
    begin = 0
    for size in batches:
        if size < num_replicas:
            yield begin + rank % size, begin + rank % size + 1
        else:
            yield (
                begin + size * rank // num_replicas,
                begin + size * (rank + 1) // num_replicas,
            )
        begin += size
