import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from longrnn.tasks import create_task
from longrnn.tasks.chirps import draw_chirps

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def fsdd():
    """The Free Spoken Digit recordings, which this project does not contain."""
    folder = Path(os.environ.get("LONGRNN_FSDD", REPOSITORY.parent / "shared" / "data" / "fsdd"))
    if not folder.is_dir():
        pytest.skip("LONGRNN_FSDD does not name a folder with the Free Spoken Digit recordings")
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    """Two speakers say two digits seven times each."""
    rng = np.random.default_rng(0)
    for digit in (3, 8):
        for speaker in ("ada", "bob"):
            for take in range(7):
                samples = rng.uniform(-0.5, 0.5, 100 + 10 * take + digit)
                soundfile.write(tmp_path / f"{digit}_{speaker}_{take}.wav", samples, 8000)
    return tmp_path


def test_takes_0_to_4_are_held_out(folder):
    task = create_task("spoken-digits", 4, data=str(folder))
    assert (len(task.train_set), len(task.test_set)) == (8, 20)
    assert sorted({len(x) for x, _ in task.train_set.pairs}) == [153, 158, 163, 168]
    lengths = [len(x) for x, _ in task.test_set.pairs]
    assert lengths == sorted(lengths)
    assert {int(digit) for _, digit in task.train_set.pairs} == {3, 8}


def test_a_speaker_can_be_held_out(folder):
    task = create_task("spoken-digits", 4, data=str(folder), speaker="bob")
    assert (len(task.train_set), len(task.test_set)) == (14, 14)
    own, _ = soundfile.read(folder / "3_bob_0.wav", dtype="float32")
    own = torch.from_numpy(own)
    held_out = [x[:, 0] for x, _ in task.test_set.pairs if len(x) == len(own)]
    assert any(torch.allclose(x * own.square().mean().sqrt(), own, atol=1e-6) for x in held_out)


@pytest.mark.parametrize("frame", [1, 7])
def test_samples_come_in_order_at_one_loudness(folder, frame):
    task = create_task("spoken-digits", 4, data=str(folder), frame=frame)
    assert task.input_size == frame
    assert task.train_lengths == [len(x) for x, _ in task.train_set.pairs]
    samples, _ = soundfile.read(folder / "3_ada_5.wav", dtype="float32")
    whole = 153 // frame * frame
    scaled = torch.from_numpy(samples[:whole] / np.sqrt(np.mean(samples**2)))
    torch.testing.assert_close(task.train_set[0][0].flatten(), scaled)


def test_a_batch_is_padded_to_its_longest(folder):
    task = create_task("spoken-digits", 4, data=str(folder))
    sequences, digits = next(iter(DataLoader(task.train_set, 8, collate_fn=task.collate)))
    assert sequences.values.shape == (8, 168, 1)
    assert sequences.lengths.tolist() == task.train_lengths
    assert digits.tolist() == [3] * 4 + [8] * 4
    for row, length in zip(sequences.values, sequences.lengths, strict=True):
        assert not row[length:].any()


def test_without_a_folder_chirps_are_made_and_said_to_be():
    task = create_task("spoken-digits", 4)
    assert task.note == "made chirps of ten kinds, not recordings: give --data-dir for speech"
    assert torch.stack([kind for _, kind in task.train_set.pairs]).bincount().tolist() == [80] * 10
    assert torch.stack([kind for _, kind in task.test_set.pairs]).bincount().tolist() == [20] * 10
    assert len(set(task.train_lengths)) > 100
    first = [x for x, _ in create_task("spoken-digits", 4, seed=5).train_set.pairs]
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, task.train_set.pairs, strict=True))


def test_a_chirp_goes_from_its_first_frequency_to_its_last():
    sounds, kinds = draw_chirps(20, 0)
    assert all(400 <= len(sound) <= 6400 for sound in sounds)
    for kind, ends in ((0, (250, 250)), (5, (2000, 500)), (7, (1000, 3000))):
        for sound in (s for s, k in zip(sounds, kinds, strict=True) if k == kind):
            for piece, end in ((sound[:128], ends[0]), (sound[-128:], ends[1])):
                spectrum = np.abs(np.fft.rfft(piece * np.hanning(128)))
                assert abs(spectrum.argmax() * 8000 / 128 - end) < 0.1 * end + 800


def test_the_real_recordings(fsdd):
    task = create_task("spoken-digits", 4, data=fsdd)
    assert (len(task.train_set), len(task.test_set)) == (2700, 300)
    lengths = [*task.train_lengths, *(len(x) for x, _ in task.test_set.pairs)]
    assert (min(lengths), max(lengths)) == (1148, 18262)
    labels = torch.stack([digit for _, digit in task.test_set.pairs])
    assert labels.bincount().tolist() == [30] * 10
    theo = create_task("spoken-digits", 4, data=fsdd, speaker="theo")
    assert (len(theo.train_set), len(theo.test_set)) == (2500, 500)


def wrong_rate(folder):
    soundfile.write(folder / "1_ada_0.wav", np.zeros(100), 44100)


def stereo(folder):
    soundfile.write(folder / "1_ada_0.wav", np.zeros((100, 2)), 8000)


def empty(folder):
    soundfile.write(folder / "1_ada_0.wav", np.zeros(0), 8000)


def damaged(folder):
    (folder / "1_ada_0.wav").write_bytes(b"RIFF0000")


def misnamed(folder):
    soundfile.write(folder / "one.wav", np.zeros(100), 8000)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (wrong_rate, "1_ada_0.wav must hold 8000 samples a second of one channel, got 44100 of 1"),
        (stereo, "1_ada_0.wav must hold 8000 .* got 8000 of 2"),
        (empty, "1_ada_0.wav must hold 8000 .*, 0 in all"),
        (damaged, "1_ada_0.wav must be a recording, got one that is damaged"),
        (misnamed, "one.wav must be named <digit>_<speaker>_<take>.wav"),
    ],
)
def test_a_file_that_does_not_belong_is_named(folder, harm, message):
    harm(folder)
    with pytest.raises(ValueError, match=message):
        create_task("spoken-digits", 4, data=str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "/nowhere/at/all"}, "data must be a folder with <digit>_<speaker>_<take>.wav"),
        ({"speaker": "ada"}, "speaker must come with data"),
        ({"frame": 0}, "frame must be a positive integer, got 0"),
        ({"frame": 10_000}, "frame must be at most the shortest's"),
    ],
)
def test_what_cannot_be_heard_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        create_task("spoken-digits", 4, **options)


def test_an_unknown_speaker_is_told_who_there_is(folder):
    with pytest.raises(ValueError, match="speaker must be one of ada, bob; got 'eve'"):
        create_task("spoken-digits", 4, data=str(folder), speaker="eve")


def test_one_sort_of_recording_cannot_be_split(folder):
    for path in folder.glob("*_[56].wav"):
        path.unlink()
    with pytest.raises(ValueError, match="data must hold recordings to learn from and others"):
        create_task("spoken-digits", 4, data=str(folder))
