"""Records a module's work as CUDA graphs in one pool of memory."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_WARM_UPS = 3  # until kernels are compiled and tuned, and libraries have their workspaces


class CudaRecorder:
    """A `Recorder` whose recordings are CUDA graphs that share a memory pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run on a side stream, as capture wants it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                with _no_cached_casts():
                    run()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """Capture a graph; its replay runs on the stream that is current then."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool), _no_cached_casts():
            results = run()
        return results, graph.replay

    def memory_bytes(self) -> int:
        """Bytes that the pool has taken from the device."""
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if s["segment_pool_id"] == self._pool)


@contextlib.contextmanager
def _no_cached_casts() -> Iterator[None]:
    """Keep autocast from handing weights that one graph cast to the work after it."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
