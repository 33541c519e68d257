"""Spoken digits, sample by sample."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from longrnn import _checks
from longrnn.tasks.chirps import SAMPLE_RATE, draw_chirps
from longrnn.tasks.task import Sequences, Task

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
_TEST_TAKES = 5  # takes 0 to 4 are held out
_MADE = (80, 20)  # chirps of a kind to learn from, and held out


class Recording(NamedTuple):
    """A recording (T,), the digit that is spoken, and who spoke it, how many times before."""

    samples: np.ndarray
    digit: int
    speaker: str
    take: int


class SpokenDigits(Task):
    """Name the digit after its recording has been heard, one raw sample a step.

    Recordings differ in length; each is scaled to a mean square of 1, and nothing else is done
    to it. Held out are takes 0 to 4 of every speaker and digit, as usual, or all of one speaker.

    Args:
        batch_size: Not used: an epoch is every recording once.
        seed: Not used: nothing is drawn.
        data: A folder with the Free Spoken Digit recordings, `<digit>_<speaker>_<take>.wav`, 8 kHz
            and mono. If None, chirps of ten kinds are made instead, see `longrnn.tasks.chirps`.
        frame: Raw samples that one step sees; what does not fill the last step is left out.
        speaker: Whose recordings are held out, all of them, instead of everyone's first takes.

    Reference:
        Jackson et al., "Free Spoken Digit Dataset", https://doi.org/10.5281/zenodo.1342401.
    """

    output_size = 10
    shuffle = True

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        data: str | None = None,
        frame: int = 1,
        speaker: str | None = None,
    ):
        _checks.check_positive(frame=frame)
        self.input_size = frame
        if data is None:
            if speaker is not None:
                raise ValueError(f"speaker must come with data: chirps have none, got {speaker!r}")
            self.note = "made chirps of ten kinds, not recordings: give --data-dir for speech"
            train, test = (_made(each, split) for split, each in enumerate(_MADE))
        else:
            self.note = f"recordings in {data}"
            train, test = _split(_read(Path(data)), speaker)
        shortest = min(len(recording.samples) for recording in (*train, *test))
        if frame > shortest:
            raise ValueError(
                f"frame must be at most the shortest's {shortest} samples, got {frame}"
            )
        # Held-out recordings go by length, so that those of a batch are about as long.
        test = sorted(test, key=lambda recording: len(recording.samples))
        self.train_set, self.test_set = _Framed(train, frame), _Framed(test, frame)
        self.train_lengths = [len(sequence) for sequence, _ in self.train_set.pairs]

    @staticmethod
    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Sequences, Tensor]:
        """Make a batch, padded to its longest recording."""
        sequences = [sequence for sequence, _ in samples]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        digits = torch.stack([digit for _, digit in samples])
        return Sequences(pad_sequence(sequences, batch_first=True), lengths), digits


class _Framed(Dataset):
    """Recordings as sequences (T, frame), each with its digit."""

    def __init__(self, recordings: list[Recording], frame: int):
        self.pairs = [(_steps(r.samples, frame), torch.tensor(r.digit)) for r in recordings]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pairs[index]


def _steps(samples: np.ndarray, frame: int) -> Tensor:
    scale = max(float(np.sqrt(np.mean(samples**2))), 1e-8)  # silence stays silence
    whole = len(samples) // frame * frame
    return torch.from_numpy(samples[:whole] / scale).view(-1, frame)


def _made(each: int, seed: int) -> list[Recording]:
    sounds, kinds = draw_chirps(each, seed)
    return [Recording(s, kind, "nobody", 0) for s, kind in zip(sounds, kinds, strict=True)]


def _read(folder: Path) -> list[Recording]:
    """Every recording of a folder, by name."""
    import soundfile

    found = []
    for path in sorted(folder.glob("*.wav")):
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise ValueError(f"{path} must be named <digit>_<speaker>_<take>.wav")
        try:
            samples, rate = soundfile.read(path, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise ValueError(
                f"{path} must be a recording, got one that is damaged: {error}"
            ) from None
        if rate != SAMPLE_RATE or samples.ndim != 1 or len(samples) == 0:
            channels = samples.shape[1] if samples.ndim == 2 else 1
            raise ValueError(
                f"{path} must hold {SAMPLE_RATE} samples a second of one channel, "
                f"got {rate} of {channels}, {len(samples)} in all"
            )
        digit, speaker, take = name.groups()
        found.append(Recording(samples, int(digit), speaker, int(take)))
    if not found:
        raise ValueError(f"data must be a folder with <digit>_<speaker>_<take>.wav, got {folder}")
    return found


def _split(
    recordings: list[Recording], speaker: str | None
) -> tuple[list[Recording], list[Recording]]:
    """What to learn from, and what is held out."""
    speakers = sorted({recording.speaker for recording in recordings})
    if speaker is None:
        held_out = [recording.take < _TEST_TAKES for recording in recordings]
    elif speaker in speakers:
        held_out = [recording.speaker == speaker for recording in recordings]
    else:
        raise ValueError(f"speaker must be one of {', '.join(speakers)}; got {speaker!r}")
    if all(held_out) or not any(held_out):
        raise ValueError(
            "data must hold recordings to learn from and others to hold out: takes 0 to "
            f"{_TEST_TAKES - 1}, or a speaker among several; got {len(recordings)} of one sort"
        )
    both = list(zip(recordings, held_out, strict=True))
    return [r for r, held in both if not held], [r for r, held in both if held]
