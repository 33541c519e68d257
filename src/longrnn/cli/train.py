"""`longrnn train`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Option = typer.Option


def train(
    task: Annotated[str, typer.Argument(help="digits, adding, frequency, memory or text")],
    model: Annotated[list[str], Option(help="layer; several are compared")] = ["gilr-lstm"],  # noqa: B006
    data: Annotated[
        str | None,
        Option("--data", "--data-dir", help="digits: folder of IDX files; text: file"),
    ] = None,
    length: Annotated[int | None, Option(help="time steps: adding, memory, text")] = None,
    permuted: Annotated[bool, Option("--permuted", help="digits: shuffle the pixels")] = False,
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
    batch_size: Annotated[int | None, Option(help="sequences, over all processes")] = None,
    steps: Annotated[int | None, Option(help="end after so many updates")] = None,
    epochs: Annotated[int | None, Option(help="end after so many passes")] = None,
    minutes: Annotated[float | None, Option(help="end after so much training time")] = None,
    lr: Annotated[float | None, Option(help="Adam's learning rate")] = None,
    schedule: Annotated[str | None, Option(help="constant or cosine")] = None,
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
        task_options={"data": data, "length": length, "permuted": permuted},
        layer_options=layer_option or [],
        hidden_size=hidden_size,
        num_layers=num_layers,
        dropout=dropout,
        forget_bias=forget_bias,
        pooling=pooling,
        batch_size=batch_size,
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
    if rows[-1]["interrupted"]:
        console.print("stopped: the same with --output and --resume goes on", highlight=False)
    console.print(f"everything is in {rows[-1]['folder']}", soft_wrap=True, highlight=False)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "parameters", rows[0]["score_name"], "steps", "seconds", "steps/s")
    compared = "speed_up" in rows[0]
    if compared:
        table.add_column("speed-up")
    for row in rows:
        score = "stopped" if row["interrupted"] else f"{row['test_score']:.4f}"
        cells = [
            row["model"],
            f"{row['parameters']:,}",
            score,
            f"{row['steps']}{' (solved)' if row['solved'] else ''}",
            f"{row['seconds']:.1f}",
            f"{row['steps_per_second']:.2f}",
        ]
        table.add_row(*cells, *([f"{row['speed_up']:.2f}×"] if compared else []))
    return table
