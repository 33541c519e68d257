import numpy as np
import pytest
import torch

from longrnn.tasks import TASKS, create_task

OPTIONS = {"adding": {"length": 20}, "memory": {"length": 20}, "text": {"length": 20}, "digits": {}}


def samples(dataset, count=5):
    return [dataset[i] for i in range(count)]


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in pairs)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_data_each_time(name):
    one, other = (create_task(name, 4, seed=3, **OPTIONS[name]) for _ in range(2))
    assert same(samples(one.train_set), samples(other.train_set))
    assert same(samples(one.test_set), samples(other.test_set))


@pytest.mark.parametrize("name", ["adding", "memory"])
def test_drawn_data_are_new_in_each_seed_epoch_and_split(name):
    task = create_task(name, 4, seed=3, length=20)
    first = samples(task.train_set)
    assert not same(first, samples(task.test_set))
    assert not same(first, samples(create_task(name, 4, seed=4, length=20).train_set))
    task.train_set.set_epoch(1)
    assert not same(first, samples(task.train_set))


@pytest.mark.parametrize("length", [2, 3, 10, 50, 1000])
def test_adding_marks_one_value_in_the_first_tenth_and_one_in_the_second_half(length):
    task = create_task("adding", 10, length=length)
    for steps, target in samples(task.train_set, 100):
        first, second = steps[:, 1].nonzero().flatten().tolist()
        assert first < max(1, length // 10)
        assert second >= length // 2
        assert steps[:, 0].abs().max() <= 0.5
        torch.testing.assert_close(target, steps[first, 0] + steps[second, 0])


def test_adding_is_solved_at_a_hundredth_of_the_variance():
    task = create_task("adding", 4)
    output, target = torch.zeros(3, 1), torch.tensor([0.0, 0.06, 0.0])
    assert task.score(output, target) == pytest.approx(0.06**2 / 3)
    assert task.solved(1 / 600)
    assert not task.solved(1 / 599)


def test_memory_asks_for_the_sign_of_the_first_symbol():
    pairs = samples(create_task("memory", 4, length=300).train_set, 50)
    assert {int(s[0]) for s, _ in pairs} == {0, 128}
    assert all((int(s[0]) == 128) == bool(minus) for s, minus in pairs)
    later = torch.stack([s[1:] for s, _ in pairs])
    assert later.min() == 0
    assert later.max() == 127


def test_a_million_symbols_are_indices():
    symbols, _ = create_task("memory", 1, length=1 << 20).train_set[0]
    assert symbols.shape == (1 << 20,)
    assert symbols.numel() * symbols.element_size() == 8 << 20


def test_text_rows_are_read_to_their_end_in_order(tmp_path):
    content = bytes(np.random.default_rng(0).integers(256, size=1000, dtype=np.uint8))
    (tmp_path / "text").write_bytes(content)
    data = create_task("text", 3, length=10, data=str(tmp_path / "text")).train_set
    for row in range(3):
        pieces = [data[i] for i in range(row, len(data), 3)]
        read = torch.cat([x for x, _ in pieces]).tolist()
        expected = torch.cat([y for _, y in pieces]).tolist()
        start = row * (899 // 3)
        assert bytes(read) == content[start : start + len(read)]
        assert bytes(expected) == content[start + 1 : start + 1 + len(read)]
        assert len(read) == 899 // 3 // 10 * 10


def test_text_is_the_manual_of_python_by_default_and_scores_bits(tmp_path):
    task = create_task("text", 4)
    assert len(task.train_set.text) > 100_000
    uniform = torch.zeros(2, 3, 256)
    assert task.score(uniform, torch.zeros(2, 3, dtype=torch.long)) == pytest.approx(8)


def test_digits_hold_out_a_hundred_of_each_class():
    task = create_task("digits", 4)
    for data, each in ((task.train_set, 400), (task.test_set, 100)):
        pixels, labels = data.tensors
        assert pixels.shape == (10 * each, 784, 1)
        assert labels.bincount().tolist() == [each] * 10
    pixels = task.train_set.tensors[0]
    assert abs(pixels.mean()) < 1e-4
    assert abs(pixels.std() - 1) < 1e-4


def test_permuted_digits_are_the_same_pixels_in_another_order():
    plain, permuted, other = (
        create_task("digits", 4, seed, permuted=p).train_set.tensors[0][:50]
        for seed, p in ((0, False), (0, True), (1, True))
    )
    assert not torch.equal(plain, permuted)
    assert not torch.equal(permuted, other)
    torch.testing.assert_close(plain.sort(1).values, permuted.sort(1).values)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sums", {}, "task must be one of digits, adding, memory, text; got 'sums'"),
        ("adding", {"permuted": True}, "task adding takes length, not permuted"),
        ("digits", {"length": 3}, "task digits takes data, permuted, not length"),
        ("adding", {"length": 1}, "length must be an integer of at least 2, got 1"),
        ("memory", {"length": -1}, "length must be an integer of at least 1, got -1"),
        ("text", {"data": "/nowhere/at/all"}, "data must be a text file, got /nowhere/at/all"),
        ("text", {"length": 100_000}, "data must hold at least batch_size"),
        ("digits", {"data": "/nowhere/at/all"}, "data must be a folder with train-images"),
    ],
)
def test_what_a_task_cannot_do_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_task(name, 4, **options)
