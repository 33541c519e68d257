"""N-MNIST: name the digit that an event camera saw, event by event."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from longrnn.tasks.events import SYMBOLS, Recordings, find_recordings, milliseconds, symbols
from longrnn.tasks.task import Task, check_length
from longrnn.tasks.timed import pad_timed


class NMNIST(Task):
    """Name the digit after all its events; each is a symbol, and its time stamp the time.

    A symbol is a pixel's address and a polarity, one of 2 x 34 x 34. Time stamps are in
    milliseconds, of about 300 a recording.

    Args:
        batch_size: Not used: an epoch is every recording once.
        seed: Not used: nothing is drawn.
        data: A folder laid out as N-MNIST, `Train/<digit>/<name>.bin` and `Test/...`, whole or in
            part; files may also be `.csv` or `.txt` with lines of t,x,y,p, t in microseconds. If
            None, events are made from 5,000 MNIST digits, see `longrnn.tasks.events.saccades`.
        length: Only the first so many events of each recording.

    Reference:
        Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using
        Saccades", 2015, https://doi.org/10.3389/fnins.2015.00437. As a task for the Phased LSTM:
        Neil et al., 2016, https://arxiv.org/abs/1610.09513.
    """

    vocabulary = SYMBOLS
    output_size = 10
    shuffle = True
    timed = True
    time_scale = 0.1
    collate = staticmethod(pad_timed)

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        data: str | None = None,
        length: int | None = None,
    ):
        if length is not None:
            check_length(length, 1)
        train, test, self.note = find_recordings(data)
        self.train_set, self.test_set = Labelled(train, length), Labelled(test, length)
        if train.lengths is not None:
            self.train_lengths = [min(n, length or n) for n in train.lengths]


class Labelled(Dataset):
    """Recordings as sequences of symbols, each with its digit."""

    def __init__(self, found: Recordings, length: int | None):
        self.found, self.length = found, length

    def __len__(self) -> int:
        return len(self.found.labels)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        events, first = self.found[index], slice(self.length)
        label = torch.tensor(self.found.labels[index])
        return (symbols(events)[first], milliseconds(events)[first]), label
