"""Networks, trained, measured and explained outside of nights."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qfundus.cli.shared import AsJson, Column, console, print_rows
from qfundus.errors import SetupError
from qfundus.layout import network_recipes
from qfundus.recipes.reading import LARGEST_SEED

if TYPE_CHECKING:
    from qfundus.classical.evaluate import Measured

commands = typer.Typer()


@commands.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name in configs/recipes/networks/, or a YAML file.")],
    data: Annotated[
        str, typer.Option(help="A MedMNIST npz, a folder with labels.csv, or prepared shards (`*.lance`, s3:// too).")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder that the grader is written to.")],
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Overrides the recipe.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that train one network together.")] = 1,
    at_once: Annotated[int, typer.Option(min=0, help="Networks trained side by side; 0: as many as fit.")] = 0,
    checkpoints: Annotated[str, typer.Option(help="Where checkpoints go, if not to OUT: s3://bucket/run.")] = "",
    track: Annotated[str, typer.Option(help="An MLflow server to log to and to keep the grader in: http://…")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="End with the figures as one JSON object.")] = False,
) -> None:
    """Train a grader on labelled photographs, without a server; run the same command again to resume it.

    OUT gets model.onnx (the grader), grader.json (what belongs to it), and a log of each network's training. The test
    split, where the data has one, is not used.

    For s3:// addresses, set QFUNDUS_S3_ENDPOINT, QFUNDUS_S3_ACCESS_KEY and QFUNDUS_S3_SECRET_KEY.
    """
    import signal

    from qfundus.classical.launch import Torchrun
    from qfundus.classical.session import train_grader
    from qfundus.progress import counting
    from qfundus.recipes.network import find_network_recipe

    # Ended from outside, too, the trainings are ended with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = find_network_recipe(recipe, network_recipes())
    number = chosen.seed if seed is None else seed
    try:
        with counting() as report:
            measured = train_grader(
                chosen,
                data,
                out,
                seed=number,
                launcher=Torchrun.open(len(chosen.members()), processes, at_once, out),
                checkpoints=checkpoints,
                track=track,
                report=report,
            )
    except KeyboardInterrupt:
        typer.secho("\nInterrupted: the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    if not as_json:
        console.print(f"The grader is in {out}. On photographs that each network had not seen:", soft_wrap=True)
    _print_measured(measured, as_json=as_json)


@commands.command()
def shard(
    recipe: Annotated[str, typer.Argument(help="A recipe's name in configs/recipes/networks/, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.", exists=True)],
    to: Annotated[str, typer.Option("--to", help="Where to write the shards, such as s3://bucket/eyes.lance.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing shards.")] = False,
) -> None:
    """Prepare photographs as a recipe wants them and write them as shards, for `qfundus train --data`."""
    from qfundus.classical.shards import shards_exist, write_shards
    from qfundus.imaging.labelled import read_labelled
    from qfundus.recipes.network import find_network_recipe

    if not to.endswith(".lance"):
        raise SetupError("The path of shards must end in .lance.")
    if not overwrite and shards_exist(to):
        raise SetupError(f"{to} already holds shards: choose another path, or pass --overwrite.")
    labelled = read_labelled(data)
    with console.status("Preparing ...") as shown:
        skipped = write_shards(
            labelled,
            find_network_recipe(recipe, network_recipes()).images,
            to,
            lambda done: shown.update(f"Preparing: {done} of {len(labelled)}"),
        )
    if skipped == len(labelled):
        raise SetupError("None of the photographs could be used: the shards are empty.")
    console.print(f"{len(labelled) - skipped} photographs are at {to}; {skipped} could not be used.", soft_wrap=True)


@commands.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.", exists=True)],
    model: Annotated[str, typer.Option(help="What `qfundus train` wrote, or an MLflow address (models:/name/1).")],
    split: Annotated[str, typer.Option(help="The split to grade; by default test, if the data has it.")] = "",
    form: Annotated[str, typer.Option(help="What `qfundus quantise` kept: int8 or int8-dynamic.")] = "",
    predictions: Annotated[
        Path | None,
        typer.Option(help="An npz file to write with names, grades, probabilities and referrals.", dir_okay=False),
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(help="A picture to write: accuracy when the least certain photographs go to a person."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Measure a grader: AUC and ACC as MedMNIST's evaluator computes them, kappa, calibration, and what it refers."""
    from qfundus.classical.evaluate import evaluate_grader
    from qfundus.classical.grader import open_grader

    for file in filter(None, (predictions, curve)):
        if not file.parent.is_dir():
            raise SetupError(f"The folder {file.parent} for {file.name} does not exist.")
    if curve and curve.suffix not in {".png", ".svg", ".pdf"}:
        raise SetupError(f"{curve} is not a picture's file name: use .png, .svg or .pdf.")
    measured, predicted = evaluate_grader(open_grader(model, form), data, split)
    if predictions:
        import numpy as np

        np.savez_compressed(predictions, **vars(predicted))
    if curve:
        from qfundus.hybrid.report import draw_coverage

        draw_coverage({measured.split: predicted.probabilities}, predicted.grades).savefig(curve)
    _warn_of_training(measured.split)
    _print_measured(measured, as_json=as_json)


@commands.command()
def quantise(
    model: Annotated[Path, typer.Argument(help="What `qfundus train` wrote.", exists=True)],
    data: Annotated[Path, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.", exists=True)],
    split: Annotated[str, typer.Option(help="The split to measure on; the others are calibrated on.")] = "test",
    max_drop: Annotated[
        float, typer.Option(min=0, help="The largest drop in accuracy or kappa that the interval may reach.")
    ] = 0.05,
    most_lost: Annotated[float | None, typer.Option(min=0, hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Write the grader in int8, dynamic and static, if the loss is small enough.

    Exits with 1 where a variant costs more, and deletes it.
    """
    from qfundus.classical.quantise import quantise_grader

    if most_lost is not None:
        typer.echo("--most-lost is now --max-drop; the old name works until release 0.3.", err=True)
        max_drop = most_lost
    with console.status("Quantising ..."):
        forms = quantise_grader(model, data, split, max_drop)
    _warn_of_training(split)
    print_rows(_FORM_COLUMNS, [vars(form) for form in forms], as_json=as_json)
    raise typer.Exit(any(form.verdict.startswith("refused") for form in forms))


_FORM_COLUMNS = (
    Column("name", "form"),
    Column("acc", "ACC", "{:.4f}".format),
    Column("kappa", show="{:.4f}".format),
    Column("milliseconds", "ms for one", "{:.1f}".format),
    Column("speed", "speed ratio", "{:.2f}".format),
    Column("megabytes", "MB", "{:.1f}".format),
    Column("verdict"),
)


def _warn_of_training(split: str) -> None:
    if split != "test":
        typer.echo("The grader may have been trained on these photographs, so the figures may flatter it.", err=True)


@commands.command()
def explain(
    model: Annotated[Path, typer.Argument(help="What `qfundus train` wrote.", exists=True)],
    photographs: Annotated[list[Path], typer.Argument(help="Photographs: .jpg, .png, .tif.", exists=True)],
    to: Annotated[Path, typer.Option("--to", help="The folder for the pictures.")],
) -> None:
    """Show where on photographs a grade comes from: red supports the grade, blue opposes it."""
    from qfundus.classical.explain import explain_files

    for one in explain_files(model, photographs, to):
        referred = "; a person should look" if one.referred else ""
        console.print(f"{one.picture}: grade {one.grade}, probability {one.probability:.2f}{referred}", soft_wrap=True)
        if not one.disc:
            typer.echo("No disc was found: the whole photograph was graded.", err=True)


def _print_measured(measured: "Measured", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(measured.to_dict()))
        return
    typer.echo(
        f"{measured.photographs} photographs ({measured.split})"
        + (f", {measured.unreadable} unreadable" if measured.unreadable else "")
        + (f", {measured.without_disc} without a disc, taken whole" if measured.without_disc else "")
    )
    typer.echo(f"AUC {measured.auc:.4f}  ACC {measured.acc:.4f}")
    if math.isnan(measured.auc):
        typer.echo("AUC is undefined: not every grade is present.")
    typer.echo(f"quadratic weighted kappa {measured.kappa:.4f}  calibration error {measured.calibration_error:.4f}")
    if math.isnan(measured.kappa):
        typer.echo("Kappa is undefined: every photograph has, or got, the same grade.")
    if math.isnan(measured.referred):
        typer.echo("The grader does not refer photographs to a person.")
    else:
        typer.echo(f"refer to a person: {measured.referred:.1%}; ACC on the others {measured.acc_kept:.4f}")
