"""What several commands share: the terminal, options, and the site key."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qfundus.errors import SetupError

if TYPE_CHECKING:
    from qfundus.security.keys import SiteKey

# What is piped is for a program: values must not be cut.
console = Console(width=None if sys.stdout.isatty() else 400)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


KeyFile = Annotated[
    Path | None,
    typer.Option(help="The site key, 64 hexadecimal digits; without it the state folder's.", exists=True),
]


def load_site_key(file: Path | None) -> "SiteKey":
    """Load the site's key: from a file, the environment, or the state folder, which gets one if it has none."""
    from qfundus.platform.secrets import load_or_make_secrets
    from qfundus.security.keys import SiteKey
    from qfundus.settings import state_folder

    try:
        given = file.read_text().strip() if file else os.environ.get("QFUNDUS_SITE_KEY", "")
        return SiteKey.from_hex(given or load_or_make_secrets(state_folder())["site_key"])
    except OSError as error:
        raise SetupError(f"The key file cannot be read ({type(error).__name__}).") from None
    except ValueError:
        raise SetupError(
            "The site key must be 64 or more hexadecimal digits drawn at random: `openssl rand -hex 32`."
        ) from None


def _show(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in JSON, and how people read it.

    `show` makes a cell of a value; None is an empty cell unless `show` says otherwise.
    """

    key: str
    title: str = ""
    show: Callable[[Any], str] = _show


def columns(*keys: str) -> tuple[Column, ...]:
    """Return columns whose titles are their keys."""
    return tuple(map(Column, keys))


def print_rows(listed: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print a table whose values are never cut, or one JSON object for each row with its values as they are."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps({column.key: row[column.key] for column in listed}))
        return
    table = Table()
    for column in listed:
        table.add_column(column.title or column.key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(column.show(row[column.key])) for column in listed))
    console.print(table)
