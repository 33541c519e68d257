"""The training loop. What `accelerate` has, it does; what is here is order and exact resume."""

import collections
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map

from longrnn.ops import budget_loss
from longrnn.tasks import Sequences, Task
from longrnn.tasks.timed import NO_TARGET
from longrnn.train import schedule
from longrnn.train.counting import count_sequences, macs_per_sequence, updates_per_sequence
from longrnn.train.load import create_network
from longrnn.train.loaders import create_loaders
from longrnn.train.metrics import Metrics
from longrnn.train.network import Answer
from longrnn.train.progress import Bar
from longrnn.train.settings import Settings
from longrnn.train.stop import StopSignal

Save = Callable[["Trainer"], None]
LOG_EVERY = 10
SOLVED_IN_A_ROW = 5


class Tested(NamedTuple):
    """What the held-out data say: means over its sequences."""

    loss: float
    score: float
    updates: float
    seconds: float


class Trainer:
    """A network, its optimizer and its place in the data.

    Every number that the next step depends on is an attribute here or inside `accelerator`'s
    objects; `snapshot.py` saves and restores them.
    """

    def __init__(self, settings: Settings, task: Task, accelerator: Accelerator):
        self.settings, self.task, self.accelerator = settings, task, accelerator
        set_seed(settings.seed)  # the same weights in every process
        self.network = create_network(task, settings)
        set_seed(settings.seed, device_specific=True)
        self.step = self.epoch = self.batch = self.solved = 0
        self.seconds = 0.0
        self.carried: Any = None
        self.interrupted = False
        self.saved = -1
        self._durations: collections.deque[float] = collections.deque(maxlen=20)
        self.order, self.train_loader, test = create_loaders(task, settings, accelerator)
        if settings.batching == "mux":
            self.network.multiplex(self.order.buckets)
        self.batches = len(self.order)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: schedule.learning_rate_factor(settings.schedule, self.progress)
        )
        self.model, self.optimizer, self.scheduler, self.test_loader = accelerator.prepare(
            self.network, optimizer, scheduler, test
        )

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        epochs = self.epoch + self.batch / self.batches
        return schedule.progress(self.settings, self.step, epochs, self.seconds)

    @property
    def done(self) -> bool:
        """Whether the run has reached its end."""
        return self.progress >= 1 or (self.is_solved and not self.settings.cost_per_sample)

    @property
    def is_solved(self) -> bool:
        """Whether enough batches in a row were solved."""
        return self.solved >= SOLVED_IN_A_ROW

    def train_epoch(self, stop: StopSignal, metrics: Metrics, bar: Bar, save: Save) -> None:
        """Train from where the epoch stands to its end, or until the run ends or is stopped."""
        # Not every version of accelerate tells the data as well as the order.
        getattr(self.task.train_set, "set_epoch", lambda _: None)(self.epoch)
        self.train_loader.set_epoch(self.epoch)
        self.order.load_state_dict(self.order.state_dict(self.batch))  # what is left of it
        started = time.perf_counter()
        for input, target in self.train_loader:
            told = self._train_batch(input, target)
            self._agree(told, time.perf_counter() - started, stop)
            if self.accelerator.sync_gradients:
                self._after_step(metrics, bar, save)
                if self.done or self.interrupted:
                    return
            started = time.perf_counter()
        self.epoch, self.batch, self.carried = self.epoch + 1, 0, None

    def _train_batch(self, input: Tensor | Sequences, target: Tensor) -> Tensor:
        """Learn from a batch; return loss, score and updates, as `_judge` does."""
        self.network.train()
        with self.accelerator.accumulate(self.model):
            answer = self.model(input, self.carried)
            weights = self._weights(input, target)
            told = self._judge(answer, input, target) * weights
            self.accelerator.backward(told[0] + self._budget(input, answer) * weights[2])
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.grad_clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        if self.task.carries_state:
            self.carried = tree_map(lambda tensor: tensor.detach(), answer.state)
        return told.detach()

    def _weights(self, input: Tensor | Sequences, target: Tensor) -> Tensor:
        """What this process's loss, score and updates count for; 1 each where shares are even.

        Loss and score are means over targets, updates over sequences. Weighted by how many of all
        it has, their mean over the processes is that over the batch, and so is the gradient's.
        """
        targets = (target != NO_TARGET).sum()
        sequences = torch.full_like(targets, count_sequences(input))
        own = torch.stack([targets, targets, sequences]).float()
        return own * self.accelerator.num_processes / self.accelerator.reduce(own)

    def _budget(self, input: Tensor | Sequences, answer: Answer) -> Tensor | float:
        """What the updates of a batch cost."""
        cost, target = self.settings.cost_per_sample, self.settings.update_target
        if not cost or answer.updates is None:
            return 0.0
        updates = answer.updates  # 0 past a sequence's end
        if isinstance(input, Sequences) and input.cu_seqlens is not None:
            lengths = input.cu_seqlens.diff().tolist()
            updates = pad_sequence(updates.split(lengths), batch_first=True)
        return budget_loss(updates, cost, target=target, batch_first=True)

    def _judge(self, answer: Answer, input: Tensor | Sequences, target: Tensor) -> Tensor:
        """Loss, score and updates a sequence."""
        loss, score = self.task.loss(answer.output, target), self.task.score(answer.output, target)
        updates = torch.as_tensor(updates_per_sequence(input, answer.updates)).to(loss)
        return torch.stack([loss, score, updates])

    def _agree(self, told: Tensor, seconds: float, stop: StopSignal) -> None:
        """Take note of a batch, with the same numbers in every process."""
        own = [*told.tolist(), seconds, float(stop.raised)]
        everyone = torch.tensor([own], device=self.accelerator.device)
        means = self.accelerator.gather(everyone).mean(0).tolist()
        self.loss, self.score, self.updates, duration, stopped = means
        self.interrupted = stopped > 0
        self.seconds += duration
        self.batch += 1
        self._durations.append(duration)
        self.solved = self.solved + 1 if self.task.solved(self.score) else 0

    def _after_step(self, metrics: Metrics, bar: Bar, save: Save) -> None:
        self.step += 1
        rate = len(self._durations) / sum(self._durations) / self.settings.accumulate
        macs = macs_per_sequence(self.network.recurrent, self.updates)
        bar.show(
            self.progress,
            self.step,
            self.loss,
            self.score,
            self.updates,
            macs,
            self.seconds,
            rate,
        )
        if self.step % LOG_EVERY == 0 or self.done:
            metrics.write(
                step=self.step,
                epoch=self.epoch,
                loss=self.loss,
                score=self.score,
                updates=self.updates,
                steps_per_second=rate,
                seconds=self.seconds,
            )
        if self.step % self.settings.save_every == 0:
            save(self)

    @torch.no_grad()
    def evaluate(self) -> Tested:
        """Judge the held-out data; leaves the random state of training alone."""
        self.network.eval()
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            totals = self._test_totals()
        totals = totals.float().to(self.accelerator.device)
        samples, *sums = self.accelerator.reduce(totals).tolist()
        return Tested(*(total / samples for total in sums))

    def _test_totals(self) -> Tensor:
        """Number of held-out sequences, and sums of what `Tested` holds means of."""
        self.test_loader.set_epoch(0)  # by itself it would draw new ones each time
        totals = torch.zeros(5, dtype=torch.float64, device="cpu")
        state = None
        for input, target in self.test_loader:
            started = time.perf_counter()
            with self.accelerator.autocast():
                answer = self.network(input, state)
            state = answer.state if self.task.carries_state else None
            told = self._judge(answer, input, target).tolist()  # waits for the device
            seconds = time.perf_counter() - started
            weighted = [len(target) * number for number in (1.0, *told)]
            totals += torch.tensor([*weighted, seconds], dtype=torch.float64)
        return totals
