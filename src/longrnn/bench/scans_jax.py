"""JAX contenders of the recurrence suite: jitted, on its own arrays, on as many threads."""

import os
from collections.abc import Callable
from typing import Any

import torch

from longrnn.bench.contender import Contender, Run
from longrnn.bench.scan_case import ScanCase


def _associative(a: Any, x: Any) -> Any:
    import jax

    def combine(p: Any, q: Any) -> Any:
        return p[0] * q[0], q[0] * p[1] + q[1]

    return jax.lax.associative_scan(combine, (a, x), axis=0)[1]


def _serial(a: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def step(h: Any, ax: Any) -> Any:
        h = ax[0] * h + ax[1]
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x[0]), (a, x))[1]


def _prepare(scan: Callable[[Any, Any], Any]) -> Callable[[ScanCase], Run]:
    def prepare(case: ScanCase) -> Run:
        os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # read when XLA starts
        import jax
        import numpy as np

        jax.config.update("jax_platforms", "cpu")
        # Time first: contiguous steps, which suit both scans best.
        inputs = [
            jax.device_put(v.transpose(0, 1).contiguous().numpy()) for v in (case.a, case.x, case.y)
        ]

        def forward(a: Any, x: Any, y: Any) -> Any:
            return (scan(a, x),)

        def training(a: Any, x: Any, y: Any) -> Any:
            h, pull = jax.vjp(scan, a, x)
            return (h, *pull(y))

        run = jax.jit(training if case.training else forward)

        def call() -> Any:
            return jax.block_until_ready(run(*inputs))

        def check() -> float:
            return case.error(torch.from_numpy(np.array(v)).transpose(0, 1) for v in call())

        return Run(call, check)

    return prepare


CONTENDERS = [
    Contender(name, _prepare(scan), module="jax", package="jax", layout="(T, B, D)")
    for name, scan in (
        ("jax.lax.associative_scan", _associative),
        ("jax.lax.scan", _serial),
    )
]
