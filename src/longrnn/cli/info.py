"""`longrnn info`: what is installed, and what runs."""


def info() -> None:
    """Tell versions, devices, threads, and which kernels are in use and why."""
    from rich.console import Console

    from longrnn.bench.inventory import inventory

    console = Console()
    for name, value in inventory().items():
        console.print(f"{name:<20}{value}", highlight=False, markup=False, soft_wrap=True)
