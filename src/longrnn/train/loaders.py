"""Training and held-out batches, and how sequences of many lengths share a tensor."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from longrnn.batching import (
    LengthBucketBatchSampler,
    pack_end_to_end,
    pad_to_bucket,
    plan_buckets,
)
from longrnn.tasks import Sequences, Task
from longrnn.train.settings import Settings

BUCKETS = 6
Batch = tuple[Any, Tensor]
Collate = Callable[[list[Any]], Batch]


class Loaders(NamedTuple):
    """Where batches come from."""

    order: LengthBucketBatchSampler
    """The training batches of all processes together, as indices."""
    train: DataLoaderShard
    """This process's share of them, as tensors."""
    test: DataLoader
    """Held-out batches, for `accelerate` to share out."""


class Shares(Sampler[list[int]]):
    """One process's share of each batch.

    `accelerate` would share out full batches alone. A batch of fewer sequences than there are
    processes is everyone's, whole: the mean over processes is then that over the batch.
    """

    def __init__(self, sampler: LengthBucketBatchSampler, processes: int, process: int):
        self.sampler, self.processes, self.process = sampler, processes, process

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.sampler:
            begin = len(batch) * self.process // self.processes
            end = len(batch) * (self.process + 1) // self.processes
            yield batch if len(batch) < self.processes else batch[begin:end]


def create_loaders(task: Task, settings: Settings, accelerator: Accelerator) -> Loaders:
    """Training batches, in which each sample comes once an epoch, and held-out ones.

    Raises:
        ValueError: If the batch size or the way of batching is not for this task.
    """
    _check(task, settings, accelerator.num_processes)
    order = _order(task, settings)
    train = DataLoaderShard(
        task.train_set,
        accelerator.device,
        batch_sampler=Shares(order, accelerator.num_processes, accelerator.process_index),
        collate_fn=_collate(task, settings.batching, order.buckets),
        generator=torch.Generator(),  # leaves alone the random state that dropout uses
    )
    test = DataLoader(
        task.test_set,
        settings.batch_size,
        drop_last=task.carries_state,
        generator=torch.Generator(),
        collate_fn=task.collate,
    )
    return Loaders(order, train, test)


def _check(task: Task, settings: Settings, processes: int) -> None:
    samples = len(task.train_set)  # type: ignore[arg-type]
    if settings.batch_size > samples:
        raise ValueError(
            f"batch_size must be at most the training set's {samples}, got {settings.batch_size}"
        )
    if settings.batch_size % processes:
        raise ValueError(
            f"batch_size must be a multiple of the {processes} processes, got {settings.batch_size}"
        )
    if settings.batching in ("bucket", "mux") and task.train_lengths is None:
        raise ValueError(
            f"batching must be pad for task {settings.task}, which does not tell its lengths, "
            f"got {settings.batching!r}"
        )
    if settings.batching == "packed" and task.collate is None:
        raise ValueError(
            f"batching must be pad for task {settings.task}, whose sequences are of one "
            "length, got 'packed'"
        )


def _order(task: Task, settings: Settings) -> LengthBucketBatchSampler:
    """All batches of an epoch; but for "bucket" and "mux", of one bucket that holds all samples."""
    lengths = task.train_lengths if settings.batching in ("bucket", "mux") else None
    if lengths is None:
        lengths, buckets = [1] * len(task.train_set), [1]  # type: ignore[arg-type]
    else:
        buckets = plan_buckets(lengths, BUCKETS)
    return LengthBucketBatchSampler(
        lengths,
        settings.batch_size,
        buckets,
        shuffle=task.shuffle,
        seed=settings.seed,
        num_replicas=1,
        rank=0,
    )


def _collate(task: Task, batching: str, buckets: list[int]) -> Collate | None:
    if batching == "packed":
        return functools.partial(_lay, task, pack_end_to_end, "cu_seqlens")
    if batching in ("bucket", "mux"):
        pad = functools.partial(pad_to_bucket, buckets=buckets, batch_first=True)
        return functools.partial(_lay, task, pad, "lengths")
    return task.collate


def _lay(
    task: Task,
    lay: Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]],
    ends: str,
    samples: list[Any],
) -> Batch:
    """Make a batch of values, and time stamps, that lie as `lay` lays them; it tells their ends."""
    inputs, targets = zip(*samples, strict=True)
    columns = zip(*inputs, strict=True) if task.timed else [inputs]
    (values, where), *more = (lay(column) for column in columns)
    sequences = Sequences(values, times=more[0][0] if more else None)._replace(**{ends: where})
    return sequences, torch.cat(targets) if task.every_step else torch.stack(targets)
