"""The settings of a run, their defaults for each task, and their check."""

import dataclasses
import json
import math
from typing import Any

import torch

from longrnn import _checks
from longrnn.nn import models
from longrnn.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides a run; `config.json` holds it.

    A run ends at the first of `steps`, `epochs` and `minutes` that is set; `minutes` counts
    training alone, not evaluation or checkpoints. It also ends when its task is solved, but not
    if updates cost something: then there is more to be learned.
    """

    task: str
    model: str
    task_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    layer_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    hidden_size: int = 64
    num_layers: int = 1
    dropout: float = 0.0
    forget_bias: float | None = None
    pooling: str = "last"
    cost_per_sample: float = 0.0
    update_target: float | None = None
    random_skip: float = 0.0
    batch_size: int = 32
    batching: str = "pad"
    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    lr: float = 1e-3
    schedule: str = "constant"
    grad_clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    device: str = "auto"
    precision: str = "no"
    compile: bool = False
    save_every: int = 200


DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        **{"epochs": 20, "batch_size": 16, "lr": 8e-3, "schedule": "cosine"},
        **{"num_layers": 2, "pooling": "mean", "forget_bias": 4.0},
    },
    "adding": {"steps": 5000, "lr": 3e-3},
    "frequency": {"steps": 5000, "batch_size": 64},
    "memory": {"steps": 20000, "batch_size": 8},
    "text": {"epochs": 10, "lr": 3e-3, "schedule": "cosine", "hidden_size": 256},
    "async-frequency": {"epochs": 70, "hidden_size": 110},
    "two-waves": {"epochs": 300, "hidden_size": 110},
    "nmnist": {
        **{"epochs": 10, "batch_size": 16, "lr": 8e-3, "schedule": "cosine"},
        **{"hidden_size": 110, "pooling": "mean", "forget_bias": 4.0},
    },
    "events-forecast": {
        **{"epochs": 5, "batch_size": 16, "lr": 3e-3, "schedule": "cosine"},
        **{"hidden_size": 234, "num_layers": 2},
    },
    "spoken-digits": {
        **{"epochs": 20, "batch_size": 8, "lr": 8e-3, "schedule": "cosine", "batching": "mux"},
        **{"num_layers": 2, "pooling": "mean", "forget_bias": 3.0},
    },
}
FORGET_GATES = ("gilr-lstm", "skip-gilr-lstm", "phased-gilr-lstm", "sru", "qrnn", "lstm")
"""Models that can begin with a long memory, by `forget_bias`."""
SKIPPING = ("skip-lstm", "skip-gru", "skip-gilr-lstm")
"""Models that choose which steps they update at, and can be charged for them."""
CHARGES = ("cost_per_sample", "update_target")
RESUMABLE = ("steps", "epochs", "minutes", "device", "save_every")
"""Settings that may differ when a run is resumed."""


def create_settings(task: str, model: str, **given: Any) -> Settings:
    """Settings for a task: what is given, where that is None the task's default.

    Raises:
        ValueError: If a setting is not legal; the message names it.
    """
    _checks.check_choice("task", task, list(TASKS))
    _checks.check_choice("model", model, models())
    values = dict(DEFAULTS[task])
    if any(given.get(name) is not None for name in ("steps", "epochs", "minutes")):
        values = {k: v for k, v in values.items() if k not in ("steps", "epochs")}
    if model not in FORGET_GATES:
        values.pop("forget_bias", None)
    values |= {name: value for name, value in given.items() if value is not None}
    values["layer_options"] = _parse(values.get("layer_options", []))
    values["task_options"] = {
        name: value
        for name, value in values.get("task_options", {}).items()
        if not (value is None or value is False)  # 0 is a value
    }
    settings = Settings(task, model, **values)
    _check(settings)
    return settings


def _parse(options: dict[str, Any] | list[str]) -> dict[str, Any]:
    """Options given as `name=value`, the value in JSON or a bare word."""
    if isinstance(options, dict):
        return options
    parsed = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not (name and equals):
            raise ValueError(f"layer_option must be name=value, got {option!r}")
        try:
            parsed[name] = json.loads(text)
        except ValueError:
            parsed[name] = text
    return parsed


def _check(s: Settings) -> None:
    for name in ("hidden_size", "num_layers", "batch_size", "accumulate", "save_every"):
        _checks.check_positive(**{name: getattr(s, name)})
    for name in ("steps", "epochs"):
        if getattr(s, name) is not None:
            _checks.check_positive(**{name: getattr(s, name)})
    for name in ("minutes", "lr", "grad_clip"):
        value = getattr(s, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value}")
    _check_skipping(s)
    if not 0 <= s.dropout <= 1:
        raise ValueError(f"dropout must lie in [0, 1], got {s.dropout}")
    if s.dropout and s.num_layers == 1:
        raise ValueError(f"dropout must be 0 with num_layers 1: it acts between, got {s.dropout}")
    if s.forget_bias is not None and s.model not in FORGET_GATES:
        models_with = ", ".join(FORGET_GATES)
        raise ValueError(f"forget_bias must be for one of {models_with}; got model {s.model}")
    if s.seed < 0:
        raise ValueError(f"seed must be at least 0, got {s.seed}")
    _checks.check_choice("batching", s.batching, ["pad", "bucket", "mux", "packed"])
    _checks.check_choice("pooling", s.pooling, ["last", "mean"])
    _checks.check_choice("schedule", s.schedule, ["constant", "cosine", "none"])
    _checks.check_choice("precision", s.precision, ["no", "bf16", "fp16"])
    _checks.check_choice("device", s.device, ["auto", "cpu", "cuda"])
    on_gpu = s.device != "cpu" and torch.cuda.is_available()
    if s.device == "cuda" and not on_gpu:
        raise ValueError("device must be cpu or auto where torch sees no GPU, got 'cuda'")
    if s.precision == "fp16" and not on_gpu:
        raise ValueError("precision must be no or bf16 on a CPU, got 'fp16'")


def _check_skipping(s: Settings) -> None:
    for name in CHARGES:
        value = getattr(s, name)
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, got {value}")
        if value and s.model not in SKIPPING:
            raise ValueError(f"{name} must be for one of {', '.join(SKIPPING)}; got {s.model}")
    if s.update_target is not None and not s.cost_per_sample:
        raise ValueError(
            f"update_target must come with a cost_per_sample to weigh it, got {s.update_target}"
        )
    if not 0 <= s.random_skip < 1:
        raise ValueError(f"random_skip must lie in [0, 1), got {s.random_skip}")
    if s.random_skip and s.model in SKIPPING:
        raise ValueError(f"random_skip must be 0 for {s.model}, which chooses, got {s.random_skip}")
