"""The command line of qfundus."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qfundus.errors import AccountError, LeakError, NightError, Retry, SetupError, TrainingError
from qfundus.logs import set_up_logs
from qfundus.recipe_parts import LARGEST_SEED

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfundus.classical.evaluate import Measured
    from qfundus.ingestion.folder_quarantine import FolderQuarantine
    from qfundus.ingestion.quarantine import Quarantine
    from qfundus.quantum.jobs.store import JobStore
    from qfundus.quantum.shots import Gradient
    from qfundus.recipe import Quantum
    from qfundus.security.audit import AuditTrail
    from qfundus.security.keys import SiteKey

T = TypeVar("T")
app = typer.Typer(
    help="A nightly retrained, honestly compared, human-approved grader of diabetic retinopathy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
quarantine = typer.Typer(help="Look at what could not be used, and send it in again.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")
audit = typer.Typer(help="Who did what, when and why.", no_args_is_help=True)
app.add_typer(audit, name="audit")
vault = typer.Typer(help="Who is behind a pseudonym.", no_args_is_help=True)
app.add_typer(vault, name="vault")
key = typer.Typer(help="The site's secret.", no_args_is_help=True)
app.add_typer(key, name="key")
# What is piped is for a program: values must not be cut.
_console = Console(width=None if sys.stdout.isatty() else 400)
_Folder = Annotated[
    Path | None, typer.Option(help="What `qfundus deidentify` wrote; without it the platform's.", exists=True)
]
quantum = typer.Typer(help="Circuits: what they take, and where they can run.", no_args_is_help=True)
app.add_typer(quantum, name="quantum")
_AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object for each row.")]
_KeyFile = Annotated[
    Path | None,
    typer.Option(help="The site key, 64 hexadecimal digits; without it the state folder's.", exists=True),
]


@app.callback()
def set_up(verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False) -> None:
    """Set up what every command needs."""
    from qfundus.settings import state_folder

    set_up_logs(verbose=verbose)
    # Some packages draw or compile, and would keep a cache in the home directory.
    os.environ.setdefault("MPLCONFIGDIR", str(state_folder() / "cache" / "matplotlib"))
    os.environ.setdefault("NUMBA_CACHE_DIR", str(state_folder() / "cache" / "numba"))


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
    table = Table("service", "state", "ready", "MB", "address")
    for s in states:
        table.add_row(s.name, s.state, "yes" if s.ready else "no", f"{s.memory_mb:.0f}", s.url)
    _console.print(table)
    _console.print(f"Logs: {states[0].log.parent}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is missing, and how to get it."""
    from qfundus.platform.doctor import examine

    for finding in examine():
        sign = "[green]ok[/]     " if finding.good else "[yellow]missing[/]"
        _console.print(f"{sign} {finding.what}{'' if finding.good else '. ' + finding.remedy}", soft_wrap=True)


@app.command()
def login() -> None:
    """Print the address, user and password of Airflow's pages."""
    from qfundus.settings import load_settings

    settings = load_settings()
    password = settings.airflow_password.get_secret_value()
    typer.echo(f"{settings.airflow_url}  user {settings.airflow_user}  password {password}")


@app.command()
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder, or a zip file.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Where clean/, quarantine/ and manifest.parquet go.")],
    policy: Annotated[Path | None, typer.Option(help="The policy; without it configs/deidentify.yaml.")] = None,
    key_file: _KeyFile = None,
    trust_pixels: Annotated[bool, typer.Option("--trust-pixels", help="Do not look for burned-in text.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes to work with.")] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with the counts as one JSON object.")] = False,
) -> None:
    """De-identify a folder or a zip file, without any server.

    DST/clean gets what is clean, DST/quarantine what is not, each with a reason file, and DST/manifest.parquet a row
    for every input.

    Exits with 0 when every input is accounted for; run again, it finds what it wrote.
    """
    from qfundus.dicom.policy import load_policy
    from qfundus.ingestion.folder import deidentify_folder
    from qfundus.layout import policy_file
    from qfundus.progress import counting

    chosen = load_policy(policy or policy_file())
    if trust_pixels:
        chosen = chosen.trusting_pixels()
    try:
        with counting() as report:
            counts = deidentify_folder(source, target, chosen, _site_key(key_file), workers=workers, report=report)
    except KeyboardInterrupt:
        typer.secho("\nInterrupted: the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(counts.to_json())
        return
    _console.print(counts.describe(), soft_wrap=True)


@app.command("verify-deid")
def verify_deid(
    folder: Annotated[Path, typer.Argument(help="What `qfundus deidentify` wrote.", exists=True)],
    originals: Annotated[Path, typer.Option(help="The folder or zip file it was made from.", exists=True)],
    policy: Annotated[Path | None, typer.Option(help="The policy; without it configs/deidentify.yaml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with the counts as one JSON object.")] = False,
) -> None:
    """Look for leaks in de-identified files, with no code of what wrote them; exits with 1 where there is one."""
    from qfundus.layout import policy_file
    from qfundus.verify import verify_folder

    verdict = verify_folder(folder, originals, policy or policy_file())
    if verdict.leaks:
        table = Table("file", "where", "what")
        for leak in verdict.leaks:
            table.add_row(leak.file, leak.where, leak.kind)
        _console.print(table)
    if as_json:
        told = {"files": verdict.files, "unmatched": verdict.unmatched, "leaks": len(verdict.leaks)}
        typer.echo(json.dumps(told))
    else:
        unknown = f" {verdict.unmatched} have no known original." if verdict.unmatched else ""
        _console.print(f"{verdict.files} files looked at, {len(verdict.leaks)} leaks found.{unknown}")
    raise typer.Exit(bool(verdict.leaks))


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="What `qfundus deidentify` made of a wrapped hospital.", exists=True)],
    originals: Annotated[Path, typer.Option(help="The folder that `qfundus wrap` wrote.", exists=True)],
) -> None:
    """Score a de-identification against the answer key, as the MIDI-B challenge does, and list each miss."""
    from qfundus.hospital.answers import describe, score_folder

    for line in describe(score_folder(folder, originals)):
        typer.echo(line)


@app.command()
def wrap(
    folder: Annotated[Path, typer.Argument(help="Where to write the DICOM files and the grading sheet.")],
    data: Annotated[Path | None, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.")] = None,
    burned_share: Annotated[float, typer.Option(min=0, max=1, help="Share of images with a name burned in.")] = 0.02,
    seed: Annotated[int, typer.Option(help="The same seed invents the same people.")] = 0,
) -> None:
    """Play the hospital: wrap labelled photographs as DICOM full of invented identity, with a grading sheet.

    Without --data RetinaMNIST is fetched where the internet allows, else phantom eyes are drawn.
    """
    from qfundus.hospital.photographs import find_photographs
    from qfundus.hospital.wrap import wrap_photographs, write_hospital
    from qfundus.settings import state_folder

    photographs = find_photographs(data, state_folder() / "cache" / "medmnist")
    written = write_hospital(wrap_photographs(photographs, seed=seed, burned_share=burned_share), folder)
    label = " (PHANTOM EYES: drawn, no real eye)" if photographs.phantom else ""
    _console.print(f"{written} photographs from {photographs.source}{label} wrapped into {folder}.", soft_wrap=True)


@app.command()
def land(
    folder: Annotated[
        Path,
        typer.Argument(help="A folder of files of any kind that may land.", exists=True),
    ],
) -> None:
    """Put a folder's files into the landing bucket."""
    from qfundus.hospital.landing import land_folder
    from qfundus.settings import load_settings

    with _console.status("Landing ...") as shown:
        landed = land_folder(load_settings(), folder, lambda done, of: shown.update(f"Landing: {done} of {of}"))
    _console.print(f"{landed} objects put into the landing bucket.")


@app.command()
def fetch() -> None:
    """Land what the hospital's archive (QFUNDUS_DICOMWEB_URL) has new, and note what is gone there."""
    from qfundus.steps.ingestion import fetch_archive

    done = fetch_archive()
    if not done:
        raise SetupError("No archive is set: give QFUNDUS_DICOMWEB_URL.")
    _console.print(f"{done['landed']} photographs have landed, {done['erased']} are to be erased.")


@app.command()
def receive() -> None:
    """Receive what archive and cameras send by DICOM C-STORE, into the landing bucket, until interrupted."""
    import signal

    from qfundus.pacs.receiver import Receiver
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    with Receiver(ObjectStore(settings), settings, _site_key(None)).listen() as port:
        _console.print(f"{settings.receiver_title} listens at {settings.receiver_host}:{port}. Ctrl-C ends it.")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


@app.command()
def night(
    approve: Annotated[bool, typer.Option(help="Approve the candidate, or leave it to a person in the UI.")] = True,
) -> None:
    """Run one night: ingest what has landed, retrain if an eye is new, promote on approval."""
    from qfundus.night import run_night
    from qfundus.settings import load_settings

    done = run_night(
        load_settings(), lambda line: _console.print(line, highlight=False, soft_wrap=True), approve=approve
    )
    what = done.promoted.get("reason") or done.retrained.get("note") or "nothing was new"
    _console.print(f"The night took {done.seconds:.0f} s: {what}", soft_wrap=True)


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.")] = None,
) -> None:
    """Do one night's work, from labelled photographs to a served grader, and show what came of it."""
    from qfundus.demo import run_demo

    run_demo(_console, data)


@app.command()
def planted(
    to: Annotated[
        Path | None, typer.Option("--to", help="The file to write; else it goes to the state folder.")
    ] = None,
) -> None:
    """Write the newest page of the search for planted names: what was planted, looked at and found."""
    from qfundus.planted.verdict import newest_page
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    page = newest_page(ObjectStore(settings), settings)
    if page is None:
        raise SetupError("Nothing was planted in the last two days: no run has taken anything in.")
    place = to or settings.home / "reports" / "planted.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(page)
    _console.print(f"See {place}.", soft_wrap=True)


@app.command()
def grade(
    files: Annotated[list[Path], typer.Argument(help="DICOM fundus photographs.", exists=True)],
    protocol: Annotated[str, typer.Option(help="http or grpc.")] = "http",
) -> None:
    """Grade photographs by the model in service."""
    from qfundus.grading import grade_files
    from qfundus.settings import load_settings

    table = Table("eye", "grade", "probabilities 0-4", "version")
    for eye in grade_files(load_settings(), files, protocol=protocol):
        told = eye.refused or " ".join(f"{p:.2f}" for p in eye.probabilities)
        table.add_row(eye.eye, "-" if eye.refused else str(eye.grade), told, eye.version)
    _console.print(table)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name in configs/recipes/networks/, or a YAML file.")],
    data: Annotated[
        str, typer.Option(help="A MedMNIST npz, a folder with labels.csv, or prepared shards (`*.lance`, s3:// too).")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder that the grader is written to.")],
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Instead of the recipe's.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that train one network together.")] = 1,
    at_once: Annotated[int, typer.Option(min=0, help="Networks trained side by side; 0: as many as fit.")] = 0,
    checkpoints: Annotated[str, typer.Option(help="Where checkpoints go, if not to OUT: s3://bucket/run.")] = "",
    track: Annotated[str, typer.Option(help="An MLflow server to log to, and to keep the grader in.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="End with the figures as one JSON object.")] = False,
) -> None:
    """Train a grader on labelled photographs, without any server; the same command goes on where it was cut off.

    OUT gets model.onnx (the grader), grader.json (what belongs to it), and a log of each network's training. The test
    split, where the data has one, is not looked at.
    """
    import signal

    from qfundus.classical.launch import Torchrun
    from qfundus.classical.recipe import find_recipe
    from qfundus.classical.session import train_grader
    from qfundus.progress import counting

    # Ended from outside, too, the trainings are ended with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = find_recipe(recipe)
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
        _console.print(f"The grader is in {out}. On photographs that each network had not seen:", soft_wrap=True)
    _print_measured(measured, as_json=as_json)


@app.command()
def shard(
    recipe: Annotated[str, typer.Argument(help="A recipe's name in configs/recipes/networks/, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.", exists=True)],
    to: Annotated[str, typer.Option("--to", help="Where to, such as s3://bucket/eyes.lance.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over shards that are there.")] = False,
) -> None:
    """Prepare photographs as a recipe wants them and write them as shards, for `qfundus train --data`."""
    from qfundus.classical.recipe import find_recipe
    from qfundus.classical.shards import shards_there, write_shards
    from qfundus.imaging.labelled import read_labelled

    if not to.endswith(".lance"):
        raise SetupError("The name of shards ends in .lance.")
    if not overwrite and shards_there(to):
        raise SetupError(f"There are shards at {to}: name another place, or say --overwrite.")
    labelled = read_labelled(data)
    with _console.status("Preparing ...") as shown:
        skipped = write_shards(
            labelled,
            find_recipe(recipe).pictures,
            to,
            lambda done: shown.update(f"Preparing: {done} of {len(labelled)}"),
        )
    if skipped == len(labelled):
        raise SetupError("None of the photographs could be used: the shards are empty.")
    _console.print(f"{len(labelled) - skipped} photographs are at {to}; {skipped} could not be used.", soft_wrap=True)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.", exists=True)],
    model: Annotated[str, typer.Option(help="What `qfundus train` wrote, or an MLflow address (models:/name/1).")],
    split: Annotated[str, typer.Option(help="The split to grade; without it test, where there is one.")] = "",
    form: Annotated[str, typer.Option(help="What `qfundus quantise` kept: int8 or int8-dynamic.")] = "",
    predictions: Annotated[
        Path | None, typer.Option(help="An npz file for names, grades and probabilities.", dir_okay=False)
    ] = None,
    curve: Annotated[
        Path | None, typer.Option(help="A picture of the accuracy when the least certain are left to a person.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Measure a grader: AUC and ACC as MedMNIST's evaluator computes them, kappa, calibration, and what it refers."""
    from qfundus.classical.evaluate import evaluate_grader
    from qfundus.classical.grader import open_grader

    for file in filter(None, (predictions, curve)):
        if not file.parent.is_dir():
            raise SetupError(f"There is no folder {file.parent} to write {file.name} to.")
    if curve and curve.suffix not in {".png", ".svg", ".pdf"}:
        raise SetupError(f"{curve} is no name for a picture: let it end in .png, .svg or .pdf.")
    measured, told = evaluate_grader(open_grader(model, form), data, split)
    if predictions:
        import numpy as np

        np.savez_compressed(predictions, **vars(told))
    if curve:
        from qfundus.hybrid.report import draw_coverage

        draw_coverage({measured.split: told.probabilities}, told.grades).savefig(curve)
    _warn_of_training(measured.split)
    _print_measured(measured, as_json=as_json)


@app.command()
def quantise(
    model: Annotated[Path, typer.Argument(help="What `qfundus train` wrote.", exists=True)],
    data: Annotated[Path, typer.Option(help="A MedMNIST npz, or a folder with labels.csv.", exists=True)],
    split: Annotated[str, typer.Option(help="The split to measure on; the others are calibrated on.")] = "val",
    most_lost: Annotated[
        float, typer.Option(min=0, help="How much accuracy or kappa int8 may cost, at the end of the interval.")
    ] = 0.05,
    as_json: _AsJson = False,
) -> None:
    """Write the grader with whole numbers of 8 bits, dynamic and static, where that costs too little to matter.

    Exits with 1 where a variant costs more, and deletes it.
    """
    from qfundus.classical.quantise import quantise_grader

    with _console.status("Quantising ..."):
        found = quantise_grader(model, data, split, most_lost)
    _warn_of_training(split)
    if as_json:
        for form in found:
            typer.echo(json.dumps(vars(form)))
        raise typer.Exit(any(form.verdict.startswith("refused") for form in found))
    rows = [
        (
            v.name,
            f"{v.acc:.4f}",
            f"{v.kappa:.4f}",
            f"{v.milliseconds:.1f}",
            f"{v.speed:.2f}",
            f"{v.megabytes:.1f}",
            v.verdict,
        )
        for v in found
    ]
    names = ("variant", "ACC", "kappa", "ms for one", "speed ratio", "MB", "verdict")
    _print_rows(names, rows, as_json=False)
    raise typer.Exit(any(form.verdict.startswith("refused") for form in found))


def _warn_of_training(split: str) -> None:
    if split != "test":
        typer.echo("The grader may have been trained on these photographs, and look better than it is.", err=True)


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="What `qfundus train` wrote.", exists=True)],
    photographs: Annotated[list[Path], typer.Argument(help="Photographs: .jpg, .png, .tif.", exists=True)],
    to: Annotated[Path, typer.Option("--to", help="The folder for the pictures.")],
) -> None:
    """Show where on photographs a grade comes from: red speaks for it, blue against it."""
    from qfundus.classical.explain import explain_files

    for picture, grade_told, probability in explain_files(model, photographs, to):
        _console.print(f"{picture}: grade {grade_told}, probability {probability:.2f}", soft_wrap=True)


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
        typer.echo("There is no AUC: not every grade is among them.")
    typer.echo(f"quadratic weighted kappa {measured.kappa:.4f}  calibration error {measured.calibration_error:.4f}")
    typer.echo(f"a person should look at {measured.referred:.1%}; ACC on the others {measured.acc_kept:.4f}")


@app.command()
def runs(
    run: Annotated[str | None, typer.Argument(help="A run, to see what became of each object.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many runs to list.")] = 20,
    as_json: _AsJson = False,
) -> None:
    """List the runs of ingestion and what came of them; of one, each object by its pseudonym."""
    from qfundus.ingestion.runs import list_runs, read_outcomes
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    store = ObjectStore(settings)
    if run is not None:
        outcomes = read_outcomes(store, settings, run).astype(str)
        _print_rows(tuple(outcomes.columns), list(outcomes.itertuples(index=False)), as_json=as_json)
        return
    rows = [
        (one.name, f"{one.landed:%Y-%m-%d %H:%M}", one.counts or "not closed")
        for one in list_runs(store, settings, most)
    ]
    _print_rows(("run", "began (UTC)", "came to"), rows, as_json=as_json)


@quarantine.command("list")
def list_quarantine(folder: _Folder = None, key_file: _KeyFile = None, as_json: _AsJson = False) -> None:
    """List what is in quarantine, with reason and remedy."""
    found = _open_quarantine(folder, key_file).list()
    rows = [(item.source, item.reason, item.detail, item.remedy) for item in found]
    if found or as_json:
        _print_rows(("source", "reason", "detail", "remedy"), rows, as_json=as_json)
    else:
        _console.print("Nothing is in quarantine.")


_Sources = Annotated[list[str], typer.Argument(help="Pseudonyms as `quarantine list` shows them.")]


def _check_why(why: str) -> str:
    if len(why.strip()) < 5:
        raise typer.BadParameter("Say why in five letters or more: it is what the audit trail is for.")
    return why


_Why = Annotated[str, typer.Option("--why", prompt=True, callback=_check_why, help="The reason, for the audit trail.")]


@quarantine.command("show")
def show_quarantined(
    source: Annotated[str, typer.Argument(help="A pseudonym as `quarantine list` shows it.")],
    to: Annotated[Path, typer.Option("--to", help="The file to write the original to: it identifies a person.")],
    why: _Why,
    folder: _Folder = None,
    key_file: _KeyFile = None,
) -> None:
    """Write an item as it came to a file that only you can read; who looked, and why, is recorded."""
    from qfundus.platform.secrets import write_private_bytes

    if to.exists():
        raise SetupError(f"{to} exists: name another file.")
    write_private_bytes(to, _decide(source, folder, key_file, lambda held: held.show(source, why)))
    _console.print(f"{source} is in {to}. Delete it when you have looked.", soft_wrap=True)


@quarantine.command("release")
def release_from_quarantine(sources: _Sources, why: _Why, folder: _Folder = None, key_file: _KeyFile = None) -> None:
    """Let the next run take items in as they came; what looked like text in their pixels is believed to be none."""
    for source in sources:
        _decide(source, folder, key_file, lambda held, source=source: held.release(source, why))
        _console.print(f"{source} will be taken in by the next run.")


@quarantine.command("drop")
def drop_from_quarantine(sources: _Sources, why: _Why, folder: _Folder = None, key_file: _KeyFile = None) -> None:
    """Delete items for good."""
    for source in sources:
        _decide(source, folder, key_file, lambda held, source=source: held.drop(source, why))
        _console.print(f"{source} is deleted.")


@audit.command("list")
def list_audit(folder: _Folder = None, key_file: _KeyFile = None, as_json: _AsJson = False) -> None:
    """List who did what, when and why."""
    rows = [
        (
            str(record.number),
            event["recorded"],
            event["agent"][0]["who"]["identifier"]["value"],
            event["entity"][0]["what"]["identifier"]["value"],
            event["action"],
            event["purposeOfEvent"][0]["text"],
            " ".join(f"{said['type']}={said['valueString']}" for said in event["entity"][0]["detail"]),
        )
        for record in _open_trail(folder, key_file).records()
        for event in [record.event]
    ]
    _print_rows(("number", "when", "who", "what", "action", "why", "details"), rows, as_json=as_json)


@audit.command("verify")
def verify_audit(
    folder: _Folder = None,
    key_file: _KeyFile = None,
    public_key: Annotated[
        list[str] | None, typer.Option(help="Check with this alone, as a reviewer; newest first where there are more.")
    ] = None,
    expect: Annotated[str, typer.Option(help="NUMBER:DIGEST as an earlier call printed it: it must still stand.")] = "",
) -> None:
    """Find any changed, missing or reordered record; exits with 1 where there is one."""
    from qfundus.security.audit import Finding

    trail = _open_trail(folder, key_file, tuple(public_key or ()))
    findings = trail.verify()
    if expect:
        number, _, digest = expect.partition(":")
        if not number.isdecimal() or not digest:
            raise SetupError("--expect takes NUMBER:DIGEST, as this command prints it.")
        if not trail.holds(int(number), digest):
            findings.append(Finding(int(number), "is not the one that was expected"))
    for finding in findings:
        _console.print(f"Record {finding.number} {finding.what}.")
    head = trail.head()
    _console.print(
        f"{sum(1 for _ in trail.records())} records, {len(findings)} findings. Key: {trail.public_key}. "
        f"Note elsewhere, for --expect: {head.number}:{head.digest}",
        soft_wrap=True,
    )
    raise typer.Exit(bool(findings))


@vault.command("reveal")
def reveal(
    patient: Annotated[str, typer.Argument(help="The pseudonym of a patient, or of an eye.")],
    why: _Why,
    as_json: _AsJson = False,
) -> None:
    """Say who is behind a pseudonym; who asked, and why, is recorded."""
    from qfundus.security.vault import Vault
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    try:
        found = Vault(ObjectStore(settings), settings, _site_key(None)).reveal(patient.split("-")[0], why)
    except LookupError as error:
        raise SetupError(f"{error} It keeps what came in while QFUNDUS_VAULT_BUCKET was set.") from None
    rows = [(who.patient_id, who.issuer, who.study, who.instance) for who in found]
    _print_rows(("patient ID", "issuer", "study", "instance"), rows, as_json=as_json)


@key.command("rotate")
def rotate_key() -> None:
    """Put a new secret before the present one; the embedded platform must be down."""
    from qfundus.platform.secrets import rotate_site_key
    from qfundus.platform.supervision import platform_status
    from qfundus.settings import state_folder

    if "QFUNDUS_SITE_KEY" in os.environ:
        raise SetupError(
            "QFUNDUS_SITE_KEY is set by you: put a new secret (`openssl rand -hex 32`) and a comma before it, restart "
            "what reads it, then run `qfundus key reseal`."
        )
    if platform_status():
        raise SetupError("The platform is up with the present secret: run `qfundus down` first.")
    rotate_site_key(state_folder())
    _console.print("A new secret seals and signs from now on. Next: `qfundus up`, then `qfundus key reseal`.")


@key.command("reseal")
def reseal_with_key(why: _Why) -> None:
    """Seal again, with the newest secret, what older ones sealed in quarantine and vault."""
    from qfundus.security.vault import reseal
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    done = reseal(ObjectStore(settings), settings, _site_key(None), why)
    _console.print(f"{done} objects are sealed anew.")


@quantum.command("plan")
def plan_quantum(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as configs/recipes/nightly.yaml.", exists=True)],
    eyes: Annotated[int, typer.Option(help="Eyes in the training split.", min=1)] = 10_000,
    hours: Annotated[float, typer.Option(help="The night's window.", min=0.0)] = 6.0,
    backend: Annotated[str, typer.Option(help="Also count what fine-tuning on this backend would send.")] = "",
    precision: Annotated[float, typer.Option(help="Standard deviation of a value there.", min=1e-4, max=1.0)] = 0.02,
    spsa: Annotated[bool, typer.Option("--spsa", help="Gradients there by SPSA, not by parameter shift.")] = False,
) -> None:
    """Measure a recipe's circuit and predict its night; exit with 1, and propose a smaller one, if it is too long.

    With --backend also what an epoch of fine-tuning there would send and cost, which the site's limit for a day may
    refuse.
    """
    from qfundus.quantum.plan import Refusal, plan_night
    from qfundus.recipe import load_recipe

    how = load_recipe(recipe).quantum
    with _console.status("Measuring a step ..."):
        plan = plan_night(how, eyes, hours * 3600)
    if isinstance(plan, Refusal):
        smaller = plan.proposal
        hint = f" {smaller.qubits} qubits and {smaller.layers} layers would fit." if smaller else ""
        raise SetupError(f"{plan.why}{hint}")
    _console.print(
        f"{how.ansatz}, {how.qubits} qubits, {how.layers} layers, batch {how.batch}, by {plan.method}: compiled in "
        f"{plan.compile_seconds:.2f} s, a step {1000 * plan.step_seconds:.1f} ms and {plan.bytes / 2**20:.0f} MiB; "
        f"{plan.steps} steps at most, {plan.night_seconds / 60:.1f} min. Trained exactly: no shots, no cost.",
        soft_wrap=True,
    )
    if backend:
        _print_shots(how, eyes, backend, precision, "spsa" if spsa else "parameter_shift")


def _print_shots(how: "Quantum", eyes: int, backend: str, precision: float, gradient: "Gradient") -> None:
    from qfundus.quantum.jobs.queue import read_rules
    from qfundus.quantum.plan import plan_shots

    plan, limit = plan_shots(how, eyes, backend, precision=precision, gradient=gradient), read_rules().site.cost
    said = (
        f"An epoch of fine-tuning on {backend}, by {gradient.replace('_', ' ')}: {plan.circuits:,} circuits and "
        f"{plan.shots:,} shots, at {plan.cost:,.2f}."
    )
    if plan.cost > limit:
        fewer = int(eyes * limit / plan.cost)
        other = "" if gradient == "spsa" else ", --spsa"
        raise SetupError(f"{said} The limit is {limit:,.2f} a day: {fewer} eyes, a larger --precision{other}.")
    _console.print(said, soft_wrap=True)


@quantum.command("backends")
def list_backends(as_json: _AsJson = False) -> None:
    """List where circuits may run: the names in configs/quantum.yaml, and what is missing to open each."""
    from qfundus.quantum.backends import open_backend, read_backends

    rows: list[tuple[str, ...]] = []
    for name, options in sorted(read_backends().items()):
        try:
            target = open_backend(name).target
            state = "any width" if target is None or target.num_qubits is None else f"{target.num_qubits} qubits"
        except SetupError as error:
            state = str(error)
        rows.append((name, str(options.get("through", name)), state))
    _print_rows(("name", "through", "state"), rows, as_json=as_json)


_Jobs = Annotated[list[str], typer.Argument(help="Jobs, as `quantum jobs` shows them: the beginning is enough.")]


@quantum.command("jobs")
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    as_json: _AsJson = False,
) -> None:
    """List the quantum jobs that are under way: where each is, since when, what it costs, and why it waits."""
    import time

    now = time.time()
    rows = [
        (
            *(job.id[:12], job.state, job.backend or " or ".join(job.backends), job.user),
            *(str(job.circuits), str(job.shots)),
            f"{(job.started or job.ended or now) - job.created:.0f} s",
            f"{(job.ended or now) - job.started:.0f} s" if job.started else "",
            *(f"{job.cost:g}", str(job.asked - 1), job.said),
        )
        for job in _open_jobs().jobs(() if everything else ("queued", "running"))
    ]
    names = ("job", "state", "backend", "user", "circuits", "shots", "waited", "ran", "cost", "cache hits", "why")
    _print_rows(names, rows, as_json=as_json)


@quantum.command("cancel")
def cancel_jobs(jobs: _Jobs) -> None:
    """Cancel jobs; what a machine has begun is called back where it can be."""
    store = _open_jobs()
    for named in jobs:
        matching = [job for job in store.jobs() if job.id.startswith(named)]
        if len(matching) != 1:
            raise SetupError(f"{len(matching)} jobs begin with {named}: see `qfundus quantum jobs --all`.")
        ended = not store.cancel(matching[0].id)
        _console.print(f"{named}: {'it had ended already' if ended else 'cancelled'}.")


@quantum.command("work")
def work_off_jobs(
    metrics_port: Annotated[int, typer.Option(help="Where Prometheus may ask, on loopback; 0 for nowhere.")] = 0,
) -> None:
    """Send queued quantum jobs and fetch what was found, until stopped; several may run, and any may die."""
    import signal
    import threading

    from qfundus.quantum.jobs.monitor import serve_metrics
    from qfundus.quantum.jobs.queue import Worker, read_rules

    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    store = _open_jobs()
    if metrics_port:
        serve_metrics(metrics_port, store)
    _console.print("Working on quantum jobs; stop with Ctrl+C.")
    Worker(store, read_rules()).run(stop)


def _open_jobs() -> "JobStore":
    from qfundus.quantum.jobs.store import JobStore
    from qfundus.settings import QuantumSettings

    return JobStore(QuantumSettings().jobs_address)


def _decide(
    source: str, folder: Path | None, key_file: Path | None, decision: "Callable[[Quarantine | FolderQuarantine], T]"
) -> "T":
    try:
        return decision(_open_quarantine(folder, key_file))
    except LookupError:
        raise SetupError(f"Nothing of the name {source} is in quarantine: see `qfundus quarantine list`.") from None


def _site_key(file: Path | None) -> "SiteKey":
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


def _print_rows(names: tuple[str, ...], rows: list[tuple[str, ...]], *, as_json: bool) -> None:
    """Print a table whose values are never cut, or a JSON object for each row."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(dict(zip(names, row, strict=True))))
        return
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    _console.print(table)


def _open_trail(folder: Path | None, key_file: Path | None, public_keys: tuple[str, ...] = ()) -> "AuditTrail":
    from qfundus.security.audit import AuditTrail

    if folder is not None:
        from qfundus.ingestion.folder import AUDIT
        from qfundus.storage import FolderStore

        return AuditTrail(FolderStore(folder), AUDIT, None if public_keys else _site_key(key_file), public_keys)
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    key = None if public_keys else _site_key(key_file)
    return AuditTrail(ObjectStore(settings), settings.audit_bucket, key, public_keys)


def _open_quarantine(folder: Path | None, key_file: Path | None) -> "Quarantine | FolderQuarantine":
    if folder is not None:
        from qfundus.ingestion.folder_quarantine import FolderQuarantine

        return FolderQuarantine(folder, _site_key(key_file))
    from qfundus.ingestion.quarantine import Quarantine
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    return Quarantine(ObjectStore(settings), settings, _site_key(key_file))


def run() -> None:
    """Run the command line; an expected error is one message, not a traceback."""
    from qfundus.settings import state_folder

    # What libraries keep goes with the rest of the state, not to the home directory.
    os.environ.setdefault("XDG_CACHE_HOME", str(state_folder() / "cache"))
    try:
        app()
    except (SetupError, Retry, AccountError, LeakError, NightError, TrainingError) as error:
        typer.secho(f"\n{error}", fg=typer.colors.RED, err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:  # of a connection, which whoever made it ought to have explained
            raise
        typer.secho(f"\n{error.filename}: {error.strerror}.", fg=typer.colors.RED, err=True)
        sys.exit(1)
