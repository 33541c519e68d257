"""Training and held-out batches, and how sequences of many lengths share a tensor."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from longrnn.batching import LengthBucketBatchSampler, plan_buckets
from longrnn.tasks import Sequences, Task
from longrnn.train.settings import Settings

BUCKETS = 6
Batch = tuple[Any, Tensor]
Collate = Callable[[list[Any]], Batch]


class BucketLoader:
    """Batches that lie in one bucket each, shared out among the processes by their sampler.

    `accelerate`, which would drop batches that are not full, is not asked to share them again.
    """

    def __init__(self, task: Task, settings: Settings, accelerator: Accelerator):
        if task.train_lengths is None or task.collate is None:
            raise ValueError(
                f"batching must be pad for task {settings.task}, which does not tell its lengths, "
                f"got {settings.batching!r}"
            )
        processes = accelerator.num_processes
        if settings.batch_size % processes:
            raise ValueError(
                f"batch_size must be a multiple of the {processes} processes, "
                f"got {settings.batch_size}"
            )
        self.buckets = plan_buckets(task.train_lengths, BUCKETS)
        self.sampler = LengthBucketBatchSampler(
            task.train_lengths,
            settings.batch_size // processes,
            self.buckets,
            shuffle=task.shuffle,
            seed=settings.seed,
            num_replicas=processes,
            rank=accelerator.process_index,
        )
        collate = task.collate
        self._loader = DataLoader(
            task.train_set,
            batch_sampler=self.sampler,
            generator=torch.Generator(),
            collate_fn=lambda samples: to_bucket(collate(samples), self.buckets),
        )
        self._device = accelerator.device

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield send_to_device(batch, self._device)

    def set_epoch(self, epoch: int) -> None:
        """Go to the order of an epoch."""
        self.sampler.set_epoch(epoch)


def create_loaders(
    task: Task, settings: Settings, accelerator: Accelerator
) -> tuple[DataLoader | BucketLoader, DataLoader]:
    """Training and held-out batches."""
    collate = task.collate
    if settings.batching == "packed":
        if collate is None:
            raise ValueError(
                f"batching must be pad for task {settings.task}, whose sequences are of one "
                "length, got 'packed'"
            )
        pad = collate
        collate = lambda samples: end_to_end(pad(samples))  # noqa: E731
    test = _loader(task.test_set, settings.batch_size, False, task.carries_state, task.collate)
    if settings.batching in ("bucket", "mux"):
        return BucketLoader(task, settings, accelerator), test
    train = _loader(task.train_set, settings.batch_size, task.shuffle, True, collate)
    if len(train) == 0:
        samples = len(task.train_set)  # type: ignore[arg-type]
        raise ValueError(
            f"batch_size must be at most the training set's {samples}, got {settings.batch_size}"
        )
    return train, test


def rest_of_epoch(
    loader: DataLoader | BucketLoader, batches: int, accelerator: Accelerator
) -> DataLoader | BucketLoader:
    """What is left of an epoch after so many batches."""
    if not isinstance(loader, BucketLoader):
        return accelerator.skip_first_batches(loader, batches)
    loader.sampler.load_state_dict(loader.sampler.state_dict(batches))
    return loader


def to_bucket(batch: Batch, buckets: list[int]) -> Batch:
    """Pad a padded batch on, to the smallest bucket that holds it."""
    sequences, target = batch
    T = sequences.values.shape[1]
    more = next(bucket for bucket in buckets if bucket >= T) - T

    def padded(x: Tensor | None) -> Tensor | None:
        return None if x is None else F.pad(x, [0, 0] * (x.ndim - 2) + [0, more])

    return sequences._replace(
        values=padded(sequences.values), times=padded(sequences.times)
    ), target


def end_to_end(batch: Batch) -> Batch:
    """Take the padding out of a padded batch, and out of targets that are one a step."""
    (values, lengths, times, _), target = batch
    valid = torch.arange(values.shape[1]) < lengths.unsqueeze(1)  # (B, T)
    target = target[valid] if target.shape == valid.shape else target
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    kept = None if times is None else times[valid]
    return Sequences(values[valid], None, kept, ends), target


def _loader(
    data: Dataset, batch_size: int, shuffle: bool, drop_last: bool, collate: Collate | None
) -> DataLoader:
    # With a generator of its own it leaves alone the random state that dropout uses.
    own = torch.Generator()
    return DataLoader(
        data, batch_size, shuffle, drop_last=drop_last, generator=own, collate_fn=collate
    )
