"""Photographs on their way in, with the platform or without."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from qfundus.cli.shared import AsJson, Column, KeyFile, columns, console, load_site_key, print_rows
from qfundus.errors import SetupError

commands = typer.Typer()


@commands.command()
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder, or a zip file.")],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="The folder to write clean/, quarantine/ and manifest.parquet to.")
    ],
    policy: Annotated[Path | None, typer.Option(help="The policy; without it configs/deidentify.yaml.")] = None,
    key_file: KeyFile = None,
    trust_pixels: Annotated[bool, typer.Option("--trust-pixels", help="Skip the search for burned-in text.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes to work with.")] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="End with the counts as one JSON object.")] = False,
) -> None:
    """De-identify a folder or a zip file, without any server.

    DST/clean gets what is clean, DST/quarantine what is not, each with a reason file, and DST/manifest.parquet a row
    for every input.

    Exits with 0 when every input is accounted for; run again, it finds what it wrote.
    """
    from qfundus.deidentify_folder.run import deidentify_folder
    from qfundus.dicom.policy import load_policy
    from qfundus.layout import policy_file
    from qfundus.progress import counting

    chosen = load_policy(policy or policy_file())
    if trust_pixels:
        chosen = chosen.trusting_pixels()
    try:
        with counting() as report:
            counts = deidentify_folder(source, target, chosen, load_site_key(key_file), workers=workers, report=report)
    except KeyboardInterrupt:
        typer.secho("\nInterrupted: the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(counts.to_json())
        return
    console.print(counts.describe(), soft_wrap=True)


@commands.command("verify-deid")
def verify_deid(
    folder: Annotated[Path, typer.Argument(help="What `qfundus deidentify` wrote.", exists=True)],
    originals: Annotated[Path, typer.Option(help="The folder or zip file it was made from.", exists=True)],
    policy: Annotated[Path | None, typer.Option(help="The policy; without it configs/deidentify.yaml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with the counts as one JSON object.")] = False,
) -> None:
    """Look for leaks in de-identified files, by code independent of what wrote them; exit with 1 if one is found."""
    from qfundus.layout import policy_file
    from qfundus.verification.verify import verify_folder

    findings = verify_folder(folder, originals, policy or policy_file())
    if findings.leaks:
        table = Table("file", "where", "what")
        for leak in findings.leaks:
            table.add_row(leak.file, leak.where, leak.kind)
        console.print(table)
    if as_json:
        summary = {"files": findings.files, "unmatched": findings.unmatched, "leaks": len(findings.leaks)}
        typer.echo(json.dumps(summary))
    else:
        unknown = f" {findings.unmatched} have no known original." if findings.unmatched else ""
        console.print(f"{findings.files} files looked at, {len(findings.leaks)} leaks found.{unknown}")
    raise typer.Exit(bool(findings.leaks))


@commands.command()
def score(
    folder: Annotated[Path, typer.Argument(help="What `qfundus deidentify` made of a wrapped hospital.", exists=True)],
    originals: Annotated[Path, typer.Option(help="The folder that `qfundus wrap` wrote.", exists=True)],
) -> None:
    """Score a de-identification against the answer key, as the MIDI-B challenge does, and list each miss."""
    from qfundus.hospital.answers import describe, score_folder

    for line in describe(score_folder(folder, originals)):
        typer.echo(line)


@commands.command()
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
    console.print(f"{written} photographs from {photographs.source}{label} wrapped into {folder}.", soft_wrap=True)


@commands.command()
def land(
    folder: Annotated[
        Path,
        typer.Argument(help="A folder of files to land.", exists=True),
    ],
) -> None:
    """Put a folder's files into the landing bucket."""
    from qfundus.hospital.landing import land_folder
    from qfundus.settings import load_settings

    with console.status("Landing ...") as shown:
        landed = land_folder(load_settings(), folder, lambda done, of: shown.update(f"Landing: {done} of {of}"))
    console.print(f"Put {landed} objects into the landing bucket.")


@commands.command()
def fetch() -> None:
    """Land what the hospital's archive (QFUNDUS_DICOMWEB_URL) has new, and note what is gone there."""
    from qfundus.steps.fetch_archive import fetch_archive

    done = fetch_archive()
    if not done:
        raise SetupError("No archive is configured: set QFUNDUS_DICOMWEB_URL.")
    console.print(f"{done['landed']} photographs landed, {done['erased']} to be erased.")


@commands.command()
def receive() -> None:
    """Receive what archive and cameras send by DICOM C-STORE, into the landing bucket, until interrupted."""
    import signal

    from qfundus.pacs.receiver import Receiver
    from qfundus.settings import load_settings
    from qfundus.site import open_site

    settings = load_settings()
    with Receiver(open_site(settings, load_site_key(None))).listen() as port:
        console.print(f"{settings.receiver_title} listens at {settings.receiver_host}:{port}. Stop it with Ctrl+C.")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


@commands.command()
def runs(
    run: Annotated[str | None, typer.Argument(help="A run, to see what became of each object.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many runs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the ingestion runs with their counts, or each object of one run by its pseudonym."""
    from qfundus.ingestion.runs import list_runs, read_outcomes
    from qfundus.site import open_site

    site = open_site()
    if run is not None:
        outcomes = read_outcomes(site, run)
        print_rows(columns(*outcomes.columns), json.loads(outcomes.to_json(orient="records") or "[]"), as_json=as_json)
        return
    rows = [
        {"run": run.name, "began": run.landed.isoformat(), "closed": run.is_closed, "counts": run.counts}
        for run in list_runs(site, most)
    ]
    listed = (
        Column("run"),
        Column("began", "began (UTC)", _show_minute),
        Column("closed"),
        Column("counts", show=_show_counts),
    )
    print_rows(listed, rows, as_json=as_json)


def _show_minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _show_counts(counts: dict[str, int]) -> str:
    from qfundus.ingestion.account import describe_counts

    return describe_counts(counts) if counts else ""


@commands.command()
def planted(
    to: Annotated[Path | None, typer.Option("--to", help="The file to write; default: in the state folder.")] = None,
) -> None:
    """Write the newest page of the search for planted names: what was planted, looked at and found."""
    from qfundus.planted.leaks import newest_page
    from qfundus.site import open_site

    site = open_site()
    page = newest_page(site)
    if page is None:
        raise SetupError("Nothing was planted in the last two days: no run has taken anything in.")
    place = to or site.settings.home / "reports" / "planted.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(page)
    console.print(f"See {place}.", soft_wrap=True)
