"""The compiled library: found, shared with torch's threads, and missed with one clear warning."""

import copy
import pathlib
import pickle
import re
import sys
import threading
import time
import warnings

import pytest
import torch

import longrnn
from longrnn import _native
from longrnn.ops.linear_recurrence.reference import linear_recurrence_reference


def test_without_a_library_one_warning_and_plain_pytorch(monkeypatch):
    monkeypatch.setattr(_native, "library_path", lambda: None)
    _native.library.cache_clear()
    try:
        decays, impulses = torch.rand(9, 2), torch.randn(9, 2)
        with pytest.warns(UserWarning, match="plain PyTorch, .* reinstall longrnn"):
            states = longrnn.linear_recurrence(decays, impulses)
        torch.testing.assert_close(states, linear_recurrence_reference(decays, impulses))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            longrnn.linear_recurrence(decays, impulses)
            output, _ = longrnn.SRU(2, 3)(impulses.unsqueeze(1))
        output.sum().backward()
    finally:
        _native.library.cache_clear()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="large results are ours on Linux")


@pytest.mark.skipif(not _native.available(), reason="the compiled library was not built")
class TestCompiled:
    @on_linux
    def test_large_results_lie_on_huge_pages(self):
        torch.use_deterministic_algorithms(False)  # which fills fresh tensors, and so avoids ours
        decays = torch.rand(1 << 16, 64)
        states = longrnn.linear_recurrence(decays, decays)
        smaps = pathlib.Path("/proc/self/smaps").read_text()
        middle = states.data_ptr() + states.nbytes // 2
        for region in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
            start, end = (int(x, 16) for x in region.split(" ", 1)[0].split("-"))
            if start <= middle < end:
                assert " hg" in re.search(r"VmFlags:(.*)", region).group(1)
                return
        pytest.fail("the result's memory was not found")

    @on_linux
    def test_memory_of_dropped_results_serves_again_and_never_twice(self):
        torch.use_deterministic_algorithms(False)
        decays = torch.rand(1 << 16, 64)
        expected = linear_recurrence_reference(decays, decays)
        first = longrnn.linear_recurrence(decays, decays)
        pointer, view = first.data_ptr(), first[100:]
        del first
        second = longrnn.linear_recurrence(decays, decays)
        assert second.data_ptr() != pointer  # a view still holds it
        torch.testing.assert_close(view, expected[100:])
        del view
        third = longrnn.linear_recurrence(decays, decays)
        assert third.data_ptr() == pointer
        fourth = longrnn.linear_recurrence(decays, decays + 1)
        assert len({x.data_ptr() for x in (second, third, fourth)}) == 3
        torch.testing.assert_close(third, expected)
        torch.testing.assert_close(second, expected)

    @on_linux
    def test_large_results_are_ordinary_tensors(self):
        torch.use_deterministic_algorithms(False)
        decays = torch.rand(1 << 15, 64, requires_grad=True)
        states = longrnn.linear_recurrence(decays, decays)
        copied = pickle.loads(pickle.dumps(states.detach()))
        assert torch.equal(copied, states)
        assert torch.equal(copy.deepcopy(states.detach()).share_memory_(), states)
        states.detach().add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            states.sum().backward()

    def test_python_runs_on_while_a_kernel_runs(self):
        """A long call on one thread leaves the interpreter to the others."""
        torch.set_num_threads(1)
        decays = torch.rand(1 << 18, 64)
        ticks, stop = [], threading.Event()

        def tick():
            while not stop.is_set():
                ticks.append(time.perf_counter())
                time.sleep(0.0005)

        thread = threading.Thread(target=tick)
        thread.start()
        start = time.perf_counter()
        for _ in range(5):
            longrnn.linear_recurrence(decays, decays)
        end = time.perf_counter()
        stop.set()
        thread.join()
        assert len([t for t in ticks if start < t < end]) >= 5

    def test_without_openmp_threads_of_our_own_give_the_same(self):
        torch.set_num_threads(2)
        decays, impulses = torch.rand(50000, 2), torch.randn(50000, 2)
        expected = longrnn.linear_recurrence(decays, impulses)
        _native.library().longrnn_use_openmp(None, None)
        try:
            assert torch.equal(longrnn.linear_recurrence(decays, impulses), expected)
        finally:
            _native.library.cache_clear()
            _native.library()

    def test_many_python_threads_at_once(self):
        torch.set_num_threads(2)
        inputs = [(torch.rand(30000, 3), torch.randn(30000, 3)) for _ in range(6)]
        expected = [longrnn.linear_recurrence(*pair) for pair in inputs]
        results: list[torch.Tensor | None] = [None] * len(inputs)

        def work(i):
            for _ in range(5):
                results[i] = longrnn.linear_recurrence(*inputs[i])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
