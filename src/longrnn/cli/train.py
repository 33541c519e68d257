"""`longrnn train`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Option = typer.Option


def train(
    task: Annotated[
        str,
        typer.Argument(
            help="digits, adding, frequency, memory, text, async-frequency, two-waves, nmnist, "
            "events-forecast or spoken-digits"
        ),
    ],
    model: Annotated[list[str], Option(help="layer; several are compared")] = ["gilr-lstm"],  # noqa: B006
    data: Annotated[
        str | None,
        Option(
            "--data",
            "--data-dir",
            help="digits: folder of IDX files; text: file; nmnist, events-forecast: folder of "
            "Train/<digit>/ and Test/<digit>/; spoken-digits: folder of recordings",
        ),
    ] = None,
    length: Annotated[
        int | None, Option(help="time steps: adding, memory, text, nmnist, events-forecast")
    ] = None,
    sampling_period: Annotated[
        float | None, Option(help="frequency: milliseconds between samples")
    ] = None,
    signal_duration: Annotated[
        float | None, Option(help="frequency: milliseconds of a signal")
    ] = None,
    sampling: Annotated[
        str | None, Option(help="async-frequency: standard, high-resolution or asynchronous")
    ] = None,
    absolute_times: Annotated[
        bool,
        Option(
            "--absolute-times",
            help="async-frequency: layers without time gates see time stamps, not differences",
        ),
    ] = False,
    frame: Annotated[int | None, Option(help="spoken-digits: raw samples a step sees")] = None,
    speaker: Annotated[
        str | None, Option(help="spoken-digits: whose recordings are held out, all of them")
    ] = None,
    permuted: Annotated[bool, Option("--permuted", help="digits: shuffle the pixels")] = False,
    scaled: Annotated[
        bool, Option("--scaled", help="digits: pixels in 0 to 1, not standardised")
    ] = False,
    hidden_size: Annotated[int | None, Option(help="units of a layer")] = None,
    num_layers: Annotated[int | None, Option(help="layers")] = None,
    dropout: Annotated[float | None, Option(help="between layers")] = None,
    forget_bias: Annotated[
        float | None, Option(help="initial bias of forget gates: greater, longer memory")
    ] = None,
    pooling: Annotated[str | None, Option(help="answer from the last or the mean output")] = None,
    layer_option: Annotated[
        list[str] | None, Option(help="the layer's own, e.g. kernel_size=3")
    ] = None,
    cost_per_sample: Annotated[
        float | None, Option(help="skip layers: what one update adds to the loss")
    ] = None,
    update_target: Annotated[
        float | None, Option(help="skip layers: updates a sequence; the cost is of the distance")
    ] = None,
    random_skip: Annotated[
        float | None, Option(help="other layers: probability of leaving a step out, a baseline")
    ] = None,
    batch_size: Annotated[int | None, Option(help="sequences, over all processes")] = None,
    batching: Annotated[
        str | None,
        Option(help="sequences of many lengths: pad, bucket, mux or packed, which pads nothing"),
    ] = None,
    steps: Annotated[int | None, Option(help="end after so many updates")] = None,
    epochs: Annotated[int | None, Option(help="end after so many passes")] = None,
    minutes: Annotated[float | None, Option(help="end after so much training time")] = None,
    lr: Annotated[float | None, Option(help="Adam's learning rate")] = None,
    schedule: Annotated[str | None, Option(help="constant, cosine, or none: lr throughout")] = None,
    grad_clip: Annotated[float | None, Option(help="largest norm of the gradient")] = None,
    accumulate: Annotated[int | None, Option(help="batches an update")] = None,
    seed: Annotated[int | None, Option(help="of weights and data")] = None,
    device: Annotated[str | None, Option(help="auto, cpu or cuda")] = None,
    precision: Annotated[str | None, Option(help="no, bf16 or fp16")] = None,
    compile: Annotated[bool, Option("--compile", help="use torch.compile")] = False,
    save_every: Annotated[int | None, Option(help="updates between checkpoints")] = None,
    output: Annotated[Path | None, Option(help="run folder; a new one under runs/")] = None,
    resume: Annotated[bool, Option("--resume", help="go on with the run in --output")] = False,
) -> None:
    """Train a layer on a task; give --model twice or more to compare.

    Start it with accelerate launch or torchrun for several processes.
    """
    from longrnn.train import train_models

    console = Console()
    rows = train_models(
        task,
        model,
        output,
        resume,
        console,
        task_options={
            "data": data,
            "length": length,
            "sampling_period": sampling_period,
            "signal_duration": signal_duration,
            "sampling": sampling,
            "absolute_times": absolute_times,
            "permuted": permuted,
            "scaled": scaled,
            "frame": frame,
            "speaker": speaker,
        },
        layer_options=layer_option or [],
        hidden_size=hidden_size,
        num_layers=num_layers,
        dropout=dropout,
        forget_bias=forget_bias,
        pooling=pooling,
        cost_per_sample=cost_per_sample,
        update_target=update_target,
        random_skip=random_skip,
        batch_size=batch_size,
        batching=batching,
        steps=steps,
        epochs=epochs,
        minutes=minutes,
        lr=lr,
        schedule=schedule,
        grad_clip=grad_clip,
        accumulate=accumulate,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile,
        save_every=save_every,
    )
    console.print(_table(rows))
    if rows[0]["note"]:
        console.print(f"note: {rows[0]['note']}", soft_wrap=True, highlight=False)
    if rows[-1]["interrupted"]:
        console.print("stopped: the same with --output and --resume goes on", highlight=False)
    console.print(f"everything is in {rows[-1]['folder']}", soft_wrap=True, highlight=False)


def _table(rows: list[dict[str, Any]]) -> Table:
    tested = (rows[0]["score_name"], "updates", "MAC", "ms/seq")
    table = Table("model", "parameters", *tested, "steps", "seconds", "steps/s", box=SIMPLE_HEAD)
    compared = "speed_up" in rows[0]
    if compared:
        table.add_column("speed-up")
    for row in rows:
        cells = [
            row["model"],
            f"{row['parameters']:,}",
            *_tested(row),
            f"{row['steps']}{' (solved)' if row['solved'] else ''}",
            f"{row['seconds']:.1f}",
            f"{row['steps_per_second']:.2f}",
        ]
        table.add_row(*cells, *([f"{row['speed_up']:.2f}×"] if compared else []))
    return table


def _tested(row: dict[str, Any]) -> list[str]:
    """Score, and of a held-out sequence: updates, multiply-adds (MAC) and milliseconds."""
    if row["interrupted"]:
        return ["stopped", "", "", ""]
    from longrnn.train.counting import si

    macs = row["test_macs"]
    return [
        f"{row['test_score']:.4f}",
        f"{row['test_updates']:.1f}",
        "" if macs is None else si(macs),
        f"{1e3 * row['test_seconds']:.3f}",
    ]
