"""The training loop. What `accelerate` has, it does; what is here is order and exact resume."""

import collections
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset

from longrnn.tasks import Sequences, Task
from longrnn.train import schedule
from longrnn.train.metrics import Metrics
from longrnn.train.network import Network
from longrnn.train.progress import Bar
from longrnn.train.settings import Settings
from longrnn.train.stop import StopSignal

Save = Callable[["Trainer"], None]
LOG_EVERY = 10
SOLVED_IN_A_ROW = 5


class Trainer:
    """A network, its optimizer and its place in the data.

    Every number that the next step depends on is an attribute here or inside `accelerator`'s
    objects; `snapshot.py` saves and restores them.
    """

    def __init__(self, settings: Settings, task: Task, accelerator: Accelerator):
        self.settings, self.task, self.accelerator = settings, task, accelerator
        set_seed(settings.seed)  # the same weights in every process
        self.network = Network(
            task,
            settings.model,
            settings.hidden_size,
            settings.num_layers,
            settings.dropout,
            settings.pooling,
            settings.forget_bias,
            options=settings.layer_options,
        )
        set_seed(settings.seed, device_specific=True)
        self.step = self.epoch = self.batch = self.solved = 0
        self.seconds = 0.0
        self.carried: Any = None
        self.interrupted = False
        self.saved = -1
        self._durations: collections.deque[float] = collections.deque(maxlen=20)
        train, test = _loaders(task, settings.batch_size)
        self.batches = len(train)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: schedule.learning_rate_factor(settings.schedule, self.progress)
        )
        self.model, self.optimizer, self.scheduler, self.train_loader, self.test_loader = (
            accelerator.prepare(self.network, optimizer, scheduler, train, test)
        )

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        epochs = self.epoch + self.batch / self.batches
        return schedule.progress(self.settings, self.step, epochs, self.seconds)

    @property
    def done(self) -> bool:
        """Whether the run has reached its end."""
        return self.progress >= 1 or self.is_solved

    @property
    def is_solved(self) -> bool:
        """Whether enough batches in a row were solved."""
        return self.solved >= SOLVED_IN_A_ROW

    def train_epoch(self, stop: StopSignal, metrics: Metrics, bar: Bar, save: Save) -> None:
        """Train from where the epoch stands to its end, or until the run ends or is stopped."""
        getattr(self.task.train_set, "set_epoch", lambda _: None)(self.epoch)
        self.train_loader.set_epoch(self.epoch)
        loader = self.accelerator.skip_first_batches(self.train_loader, self.batch)
        started = time.perf_counter()
        for input, target in loader:
            loss, score = self._train_batch(input, target)
            self._agree(loss, score, time.perf_counter() - started, stop)
            if self.accelerator.sync_gradients:
                self._after_step(metrics, bar, save)
                if self.done or self.interrupted:
                    return
            started = time.perf_counter()
        self.epoch, self.batch, self.carried = self.epoch + 1, 0, None

    def _train_batch(self, input: Tensor | Sequences, target: Tensor) -> tuple[Tensor, Tensor]:
        self.network.train()
        with self.accelerator.accumulate(self.model):
            answer = self.model(input, self.carried)
            loss = self.task.loss(answer.output, target)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.grad_clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        if self.task.carries_state:
            self.carried = tree_map(lambda tensor: tensor.detach(), answer.state)
        return loss.detach(), self.task.score(answer.output.detach(), target)

    def _agree(self, loss: Tensor, score: Tensor, seconds: float, stop: StopSignal) -> None:
        """Take note of a batch, with the same numbers in every process."""
        own = [loss.item(), score.item(), seconds, float(stop.raised)]
        everyone = torch.tensor([own], device=self.accelerator.device)
        means = self.accelerator.gather(everyone).mean(0).tolist()
        self.loss, self.score, duration, stopped = means
        self.interrupted = stopped > 0
        self.seconds += duration
        self.batch += 1
        self._durations.append(duration)
        self.solved = self.solved + 1 if self.task.solved(self.score) else 0

    def _after_step(self, metrics: Metrics, bar: Bar, save: Save) -> None:
        self.step += 1
        rate = len(self._durations) / sum(self._durations) / self.settings.accumulate
        bar.show(self.progress, self.step, self.loss, self.score, rate)
        if self.step % LOG_EVERY == 0 or self.done:
            metrics.write(
                step=self.step,
                epoch=self.epoch,
                loss=self.loss,
                score=self.score,
                steps_per_second=rate,
                seconds=self.seconds,
            )
        if self.step % self.settings.save_every == 0:
            save(self)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and score on the held-out data."""
        self.network.eval()
        totals = torch.zeros(3, dtype=torch.float64, device="cpu")
        state = None
        for input, target in self.test_loader:
            with self.accelerator.autocast():
                answer = self.network(input, state)
            state = answer.state if self.task.carries_state else None
            output = answer.output
            batch = torch.stack([self.task.loss(output, target), self.task.score(output, target)])
            totals += len(target) * torch.tensor([1.0, *batch.tolist()], dtype=torch.float64)
        totals = totals.float().to(self.accelerator.device)
        samples, loss, score = self.accelerator.reduce(totals).tolist()
        return loss / samples, score / samples


def _loaders(task: Task, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Training and held-out batches."""

    def loader(data: Dataset, shuffle: bool, drop_last: bool) -> DataLoader:
        # With a generator of its own it leaves alone the random state that dropout uses.
        own = torch.Generator()
        return DataLoader(
            data,
            batch_size,
            shuffle,
            drop_last=drop_last,
            generator=own,
            collate_fn=task.collate,
        )

    train = loader(task.train_set, task.shuffle, True)
    if len(train) == 0:
        samples = len(task.train_set)  # type: ignore[arg-type]
        raise ValueError(
            f"batch_size must be at most the training set's {samples}, got {batch_size}"
        )
    return train, loader(task.test_set, False, task.carries_state)
