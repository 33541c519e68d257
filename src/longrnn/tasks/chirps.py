"""Made sounds of ten kinds and many lengths, for where there are no recordings."""

import numpy as np

SAMPLE_RATE = 8000
_SWEEPS = (  # Hz at the beginning and at the end
    *((250, 250), (250, 1000), (1000, 250), (1000, 1000), (500, 2000)),
    *((2000, 500), (2000, 2000), (1000, 3000), (3000, 1000), (3000, 3000)),
)
_NOISE = 0.3


def draw_chirps(each: int, seed: int) -> tuple[list[np.ndarray], list[int]]:
    """Draw as many sounds of each kind: tones that hold, rise or fall, in noise.

    Lengths are log-normal, from 400 to 6,400 samples with a median of 1,600, loudness and phase
    differ, and so do the frequencies, by a tenth either way.

    Args:
        each: Sounds of each kind.
        seed: Of the sounds.

    Returns:
        The sounds, each (T,) float32, and their kinds, 0 to 9.
    """
    rng = np.random.default_rng(seed)
    sounds, kinds = [], []
    for kind in np.repeat(np.arange(len(_SWEEPS)), each):
        T = int(np.clip(rng.lognormal(np.log(1600), 0.5), 400, 6400))
        begin, end = np.array(_SWEEPS[kind]) * rng.uniform(0.9, 1.1)
        phase = 2 * np.pi * np.cumsum(np.linspace(begin, end, T)) / SAMPLE_RATE
        tone = np.sin(phase + rng.uniform(0, 2 * np.pi)) + _NOISE * rng.standard_normal(T)
        sounds.append((rng.uniform(0.1, 1) * tone).astype(np.float32))
        kinds.append(int(kind))
    return sounds, kinds
