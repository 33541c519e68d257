import gzip
import struct

import numpy as np
import pytest

from longrnn.tasks import create_task
from longrnn.tasks.idx import read_idx


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


IMAGES = np.arange(5 * 28 * 28).reshape(5, 28, 28) % 251
LABELS = np.array([3, 1, 4, 1, 5])


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    return tmp_path


def test_files_are_read_gzipped_or_not(folder):
    np.testing.assert_array_equal(read_idx(folder / "train-images-idx3-ubyte", 3), IMAGES)
    np.testing.assert_array_equal(read_idx(folder / "t10k-labels-idx1-ubyte.gz", 1), LABELS)


def test_digits_come_from_a_folder(folder):
    task = create_task("digits", 2, data=str(folder))
    pixels, labels = task.test_set.tensors
    assert labels.tolist() == LABELS.tolist()
    flat = IMAGES.reshape(5, 784).astype(float)
    np.testing.assert_allclose(pixels[..., 0], (flat - flat.mean()) / flat.std(), atol=1e-5)


def test_files_may_have_a_dot_in_their_name(folder):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(create_task("digits", 2, data=str(folder)).train_set) == 5


WHOLE = idx(IMAGES)
ZIPPED = gzip.compress(WHOLE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an IDX file of unsigned bytes with 3 dimension.* it is empty"),
        (WHOLE[:10], "must be an IDX file"),
        (b"\x00\x00\x0d\x03" + WHOLE[4:], "must be.* beginning 00000803; it begins 00000d03"),
        (idx(LABELS), "must be.* begins 00000801"),
        (WHOLE[:-1], "must hold 3936 bytes for shape .*got 3935: it is truncated"),
        (WHOLE + b"\0", "must hold.* got 3937"),
        (ZIPPED[:-20], "must be a whole gzip file"),
        (ZIPPED[:20] + b"\xff" * 20 + ZIPPED[40:], "must be a whole gzip file"),
    ],
)
def test_a_damaged_file_is_named(folder, content, message):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} {message}"):
        create_task("digits", 2, data=str(folder))


def test_a_missing_file_is_named(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match="folder with t10k-labels-idx1-ubyte or"):
        create_task("digits", 2, data=str(folder))


@pytest.mark.parametrize(
    ("labels", "message"),
    [(LABELS[:4], "a label for each of 5 images, got 4"), (LABELS + 5, "labels 0 to 9, got 10")],
)
def test_wrong_labels_are_named(folder, labels, message):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(ValueError, match=message):
        create_task("digits", 2, data=str(folder))
