"""Every op test can run on each compiled library that this processor runs, and without one."""

import pytest

from longrnn import _native

KERNELS = ["plain", "baseline", "avx2", "avx512"]


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(_native, "available", lambda: False)
        yield request.param
        return
    best = _native.library_path()
    if best is None:
        pytest.skip("the compiled library was not built")
    path = best.with_name(best.name.replace(best.stem, f"liblongrnn_{request.param}"))
    ladder = ["baseline", "avx2", "avx512"]
    if not path.exists() or ladder.index(request.param) > ladder.index(best.stem.split("_")[-1]):
        pytest.skip(f"this processor does not run {request.param}")
    monkeypatch.setattr(_native, "library_path", lambda: path)
    _clear()
    yield request.param
    _clear()


def _clear():
    _native.library.cache_clear()
    _native.function.cache_clear()
