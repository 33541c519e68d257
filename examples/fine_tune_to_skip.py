"""Teach a trained nn.LSTM to skip: load its weights, charge it for updates, fine-tune."""

import sys
import time

import torch
from torch import Tensor, nn

import longrnn
from longrnn.tasks import create_task

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 5  # of nn.LSTM; twice as many to fine-tune
COST = 1e-2  # of an update, in units of the loss

torch.manual_seed(0)
torch.set_num_threads(1)
task = create_task("digits", batch_size=50)  # 5,000 digits of MNIST
train_x, train_y = task.train_set.tensors
test_x, test_y = task.test_set.tensors


def answer(layer: nn.Module, readout: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What the digits are, and at which of their 28 rows the state was updated."""
    output, _, *updates = layer(pixels.view(-1, 28, 28))  # one row a step
    return readout(output[:, -1]), updates[0] if updates else torch.ones(len(pixels), 28, 1)


def train(layer: nn.Module, readout: nn.Module, epochs: int, cost: float) -> None:
    optimizer = torch.optim.Adam([*layer.parameters(), *readout.parameters()], lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(train_x)).split(50):
            output, updates = answer(layer, readout, train_x[batch])
            loss = nn.functional.cross_entropy(output, train_y[batch])
            loss = loss + longrnn.budget_loss(updates, cost, batch_first=True)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()


@torch.no_grad()
def report(name: str, layer: nn.Module, readout: nn.Module) -> None:
    layer.eval()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        output, updates = answer(layer, readout, test_x)
        times.append(time.perf_counter() - started)
    accuracy = (output.argmax(-1) == test_y).float().mean()
    used = updates.sum(1).mean()
    print(f"{name}: accuracy {accuracy:.3f}, {used:4.1f} of 28 updates, {min(times) * 1e3:5.1f} ms")


lstm, readout = nn.LSTM(28, 96, batch_first=True), nn.Linear(96, 10)
train(lstm, readout, EPOCHS, cost=0.0)
report("nn.LSTM, trained           ", lstm, readout)

skip = longrnn.SkipLSTM(28, 96, batch_first=True)
skip.load_state_dict(lstm.state_dict())  # its weights as they are
report("SkipLSTM with its weights  ", skip, readout)

train(skip.train(), readout, 2 * EPOCHS, COST)
report("SkipLSTM, fine-tuned       ", skip, readout)
