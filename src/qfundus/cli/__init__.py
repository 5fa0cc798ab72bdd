"""The command line of qfundus: commands in panels, and groups of commands by name."""

import errno
import os
import sys
from typing import Annotated

import typer

from qfundus.cli import custody, ingestion, nights, platform, quantum, training
from qfundus.errors import AccountError, LeakError, NightError, Retry, SetupError, TrainingError
from qfundus.logs import set_up_logs
from qfundus.quick_exit import exit_quickly

app = typer.Typer(
    help="A nightly retrained, honestly compared, human-approved grader of diabetic retinopathy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_PANELS = {
    "The platform on this machine": platform.commands,
    "Photographs on their way in": ingestion.commands,
    "Nights, and the model in service": nights.commands,
    "Networks, trained and measured by hand": training.commands,
}
_GROUPS = {
    "quarantine": custody.quarantine,
    "audit": custody.audit,
    "vault": custody.vault,
    "key": custody.key,
    "quantum": quantum.commands,
}
for _title, _commands in _PANELS.items():
    for _command in _commands.registered_commands:
        _command.rich_help_panel = _title
    app.add_typer(_commands)
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name, rich_help_panel="Groups of commands")


@app.callback()
def set_up(verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False) -> None:
    """Set up what every command needs."""
    from qfundus.settings import state_folder

    set_up_logs(verbose=verbose)
    # Some packages draw or compile, and would keep a cache in the home directory.
    os.environ.setdefault("MPLCONFIGDIR", str(state_folder() / "cache" / "matplotlib"))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(state_folder() / "cache" / "numba"))


def explain(error: OSError) -> str:
    """Say what the system refused.

    Raises:
        OSError: of a connection, which whoever made it ought to have explained.
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:  # a write names no file
        return "The disk is full: free some space and start it again."
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}."


def run() -> None:
    """Run the command line; an expected error is one message, not a traceback."""
    from qfundus.settings import state_folder

    # What libraries keep goes with the rest of the state, not to the home directory.
    os.environ.setdefault("XDG_CACHE_HOME", str(state_folder() / "cache"))
    exit_quickly()
    try:
        app()
    except (SetupError, Retry, AccountError, LeakError, NightError, TrainingError) as error:
        typer.secho(f"\n{error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
    except OSError as error:
        typer.secho(f"\n{explain(error)}", fg=typer.colors.RED, err=True)
        sys.exit(1)
