"""Whole nights, and the model in service."""

from pathlib import Path
from typing import Annotated

import typer

from qfundus.cli.shared import AsJson, Column, console, print_rows

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
    as_json: AsJson = False,
) -> None:
    """Grade photographs by the model in service."""
    from qfundus.registry.grade import grade_files
    from qfundus.site import open_site

    eyes = grade_files(open_site(), files, protocol=protocol)
    rows = [
        {
            "eye": eye.eye,
            "grade": None if eye.refused else eye.grade,
            "probabilities": list(eye.probabilities),
            "referred": eye.referred,
            "version": eye.version,
            "refused": eye.refused,
        }
        for eye in eyes
    ]
    listed = (
        Column("eye"),
        Column("grade"),
        Column("probabilities", "probabilities 0-4", _show_probabilities),
        Column("referred", "refer to a person"),
        Column("version"),
        Column("refused"),
    )
    print_rows(listed, rows, as_json=as_json)


def _show_probabilities(probabilities: list[float]) -> str:
    return " ".join(f"{probability:.2f}" for probability in probabilities)
