"""Whole nights, and the model in service."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from qfundus.cli.shared import console

commands = typer.Typer()


@commands.command()
def night(
    approve: Annotated[bool, typer.Option(help="Approve the candidate, or leave it to a person in the UI.")] = True,
) -> None:
    """Run one night: ingest what has landed, retrain if an eye is new, promote on approval."""
    from qfundus.platform.night import run_night
    from qfundus.settings import load_settings

    done = run_night(
        load_settings(), lambda line: console.print(line, highlight=False, soft_wrap=True), approve=approve
    )
    what = done.promoted.get("reason") or done.retrained.get("note") or "nothing was new"
    console.print(f"The night took {done.seconds:.0f} s: {what}", soft_wrap=True)


@commands.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.")] = None,
) -> None:
    """Do one night's work, from labelled photographs to a served grader, and show what came of it."""
    from qfundus.cli.demo import run_demo

    run_demo(console, data)


@commands.command()
def grade(
    files: Annotated[list[Path], typer.Argument(help="DICOM fundus photographs.", exists=True)],
    protocol: Annotated[str, typer.Option(help="http or grpc.")] = "http",
) -> None:
    """Grade photographs by the model in service."""
    from qfundus.registry.grade import grade_files
    from qfundus.site import open_site

    table = Table("eye", "grade", "probabilities 0-4", "a person should look", "version")
    for eye in grade_files(open_site(), files, protocol=protocol):
        told = eye.refused or " ".join(f"{p:.2f}" for p in eye.probabilities)
        table.add_row(eye.eye, "-" if eye.refused else str(eye.grade), told, eye.referral, eye.version)
    console.print(table)
