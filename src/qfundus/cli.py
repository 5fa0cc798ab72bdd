"""The command line of qfundus."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qfundus.logs import set_up_logs

app = typer.Typer(
    help="A nightly retrained, honestly compared, human-approved grader of diabetic retinopathy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console()


@app.callback()
def main(verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False) -> None:
    """Set up what every command needs."""
    set_up_logs(verbose=verbose)


@app.command()
def up() -> None:
    """Start the embedded platform; where it runs already, nothing is done."""
    from qfundus.platform.supervision import start_platform

    start_platform(_console.print)
    status()


@app.command()
def down() -> None:
    """Stop the embedded platform."""
    from qfundus.platform.supervision import stop_platform

    stop_platform(_console.print)


@app.command()
def status() -> None:
    """Say what runs where."""
    from qfundus.platform.supervision import platform_status

    states = platform_status()
    if not states:
        _console.print("The platform is down. Start it with `qfundus up`.")
        return
    table = Table("service", "state", "ready", "MB", "address", "log")
    for s in states:
        table.add_row(s.name, s.state, "yes" if s.ready else "no", f"{s.memory_mb:.0f}", s.url, str(s.log))
    _console.print(table)
