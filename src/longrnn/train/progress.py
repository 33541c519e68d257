"""The live line of a run."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Bar(Progress):
    """A progress bar with step, loss, score and steps per second.

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

    def show(self, done: float, step: int, loss: float, score: float, rate: float) -> None:
        """Move the bar to `done` of 1 and print the numbers of the last step."""
        numbers = f"step {step}  loss {loss:.4f}  {self.score_name} {score:.4f}  {rate:.1f} steps/s"
        self.update(self.line, completed=done, numbers=numbers)
