"""One training run, from its settings to its summary."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, broadcast_object_list
from rich.console import Console

from longrnn.tasks import create_task
from longrnn.train import checkpoint, files, folder, snapshot
from longrnn.train.counting import macs_per_sequence
from longrnn.train.metrics import Metrics, read_metrics
from longrnn.train.plot import plot_curve
from longrnn.train.progress import Bar
from longrnn.train.settings import Settings
from longrnn.train.stop import StopSignal
from longrnn.train.trainer import Tested, Trainer

T = TypeVar("T")
Until = Callable[[list[dict[str, Any]]], bool]


def train(
    settings: Settings,
    output: Path,
    resume: bool = False,
    console: Console | None = None,
    until: Until | None = None,
) -> dict[str, Any]:
    """Train, and leave everything in a run folder.

    Args:
        settings: What to do.
        output: The run folder.
        resume: Go on with the run in `output`, from its newest whole checkpoint.
        console: Where progress and warnings are shown.
        until: Told of all evaluations so far, as in `metrics.jsonl`, after each one; if it says
            yes, the run ends there, even if nothing else ends it.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: If `output` holds a run and `resume` is false, or the other way round; if the
            run there had other settings; if no checkpoint there is whole.
        OSError: If the disk is full. Earlier checkpoints are then as they were.
    """
    console = console or Console()
    task = create_task(settings.task, settings.batch_size, settings.seed, **settings.task_options)
    accelerator = _accelerator(settings, output)
    open_folder = folder.check_same if resume else folder.begin
    _on_main(accelerator, lambda: open_folder(output, settings))
    trainer = Trainer(settings, task, accelerator)
    if resume:
        _resume(trainer, output / "checkpoints", console)
    accelerator.init_trackers(
        "tensorboard", init_kwargs={"tensorboard": {"purge_step": trainer.step + 1}}
    )
    metrics = Metrics(output / "metrics.jsonl", accelerator, trainer.step)
    shown = accelerator.is_main_process
    with StopSignal() as stop, Bar(console, settings.model, task.score_name, shown) as bar:
        tested = _fill(trainer, output / "checkpoints", stop, metrics, bar, until)
    summary = _summary(trainer, tested)
    if accelerator.is_main_process:
        files.write_atomically(output / "summary.json", files.to_json(summary))
        lines = read_metrics(metrics.path)
        plot_curve(output / "curve.png", lines, task.score_name, task.note)
    for tracker in accelerator.trackers:  # `end_training` would end the processes' group as well
        tracker.finish()
    return summary


def _accelerator(settings: Settings, output: Path) -> Accelerator:
    # An earlier run in this process may have had another device or precision.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        cpu=settings.device == "cpu",
        dynamo_backend="inductor" if settings.compile else None,
        dataloader_config=DataLoaderConfiguration(
            split_batches=True,
            even_batches=False,
            use_seedable_sampler=True,
            data_seed=settings.seed,
        ),
        log_with="tensorboard",
        project_config=ProjectConfiguration(str(output), logging_dir=str(output)),
    )


def _on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Do something in one process; its result, or its ValueError, is everyone's."""
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told = [action(), None]
        except ValueError as caught:
            told = [None, str(caught)]
    result, error = broadcast_object_list(told)
    if error is not None:
        raise ValueError(error)
    return result


def _resume(trainer: Trainer, checkpoints: Path, console: Console) -> None:
    def warn(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    path = _on_main(trainer.accelerator, lambda: checkpoint.newest(checkpoints, warn))
    if path is not None:
        snapshot.restore(trainer, path)
    if trainer.accelerator.is_main_process:
        warn(f"resumed at step {trainer.step}")


def _fill(
    trainer: Trainer,
    checkpoints: Path,
    stop: StopSignal,
    metrics: Metrics,
    bar: Bar,
    until: Until | None,
) -> Tested | None:
    """Train to the end; return what the held-out data say, None if stopped before."""

    def save(trainer: Trainer) -> None:
        snapshot.save(trainer, checkpoints)

    def test() -> Tested:
        tested = trainer.evaluate()
        metrics.write(
            step=trainer.step,
            epoch=trainer.epoch,
            **{f"test_{name}": value for name, value in tested._asdict().items()},
            test_solved=trainer.task.solved(tested.score),
            seconds=trainer.seconds,
        )
        return tested

    def ended() -> bool:
        if trainer.done or until is None or tested is None:
            return trainer.done
        return _on_main(trainer.accelerator, lambda: until(metrics.evaluations()))

    between_epochs = trainer.step > 0 and trainer.batch == 0
    tested = test() if trainer.done or (until is not None and between_epochs) else None
    while not ended():
        trainer.train_epoch(stop, metrics, bar, save)
        if trainer.interrupted:
            break
        tested = test()
    if trainer.saved != trainer.step:
        save(trainer)
    return None if trainer.interrupted else tested


def _summary(trainer: Trainer, tested: Tested | None) -> dict[str, Any]:
    loss, score, updates, seconds = tested or (None, None, None, None)
    macs = None if updates is None else macs_per_sequence(trainer.network.recurrent, updates)
    return {
        "task": trainer.settings.task,
        "model": trainer.settings.model,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "test_score": score,
        "score_name": trainer.task.score_name,
        "note": trainer.task.note,
        "test_loss": loss,
        "test_updates": updates,
        "test_macs": macs,
        "test_seconds": seconds,
        "steps": trainer.step,
        "epochs": trainer.epoch,
        "seconds": trainer.seconds,
        "steps_per_second": trainer.step / trainer.seconds if trainer.seconds else 0.0,
        "solved": trainer.is_solved,
        "interrupted": trainer.interrupted,
        "device": str(trainer.accelerator.device),
        "processes": trainer.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
