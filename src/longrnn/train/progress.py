"""The live line of a run."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from longrnn.train.counting import si


class Bar(Progress):
    """A progress bar with step, loss, score, and together: updates, multiply-adds and time.

    Args:
        console: Where it is drawn.
        title: What is running.
        score_name: What the score is.
        shown: Whether this process draws it.
    """

    def __init__(self, console: Console, title: str, score_name: str, shown: bool):
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not shown,
        )
        self.score_name = score_name
        self.line = self.add_task(title, total=1.0, numbers="")

    def show(
        self,
        done: float,
        step: int,
        loss: float,
        score: float,
        updates: float,
        macs: float | None,
        seconds: float,
        rate: float,
    ) -> None:
        """Move the bar to `done` of 1 and print the numbers of the last step."""
        numbers = f"step {step}  loss {loss:.4f}  {self.score_name} {score:.4f}  "
        numbers += f"{updates:.1f} updates  " + ("" if macs is None else f"{si(macs)} MAC  ")
        numbers += f"{seconds:.0f}s  {rate:.1f} steps/s"
        self.update(self.line, completed=done, numbers=numbers)
