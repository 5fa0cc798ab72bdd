"""The demonstration: one night's work, from labelled photographs to a served grader."""

import csv
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qfundus.evaluation.metrics import Estimate
from qfundus.evaluation.predictions import FORMS
from qfundus.hospital.landing import land_folder
from qfundus.hospital.photographs import Photographs, find_photographs
from qfundus.hospital.wrap import SHEET_NAME, WrappedEye, wrap_photographs, write_hospital
from qfundus.platform.night import Night, run_night
from qfundus.platform.supervision import start_platform
from qfundus.registry.grade import GradedEye, grade_files
from qfundus.registry.versions import Recorded, champion_version, download_report, read_version
from qfundus.settings import Settings, load_settings, state_folder
from qfundus.site import open_site

HELD_OUT = 12  # eyes that the night never sees, graded through Triton at its end
_SHOWN = {
    "quadratic_weighted_kappa": "quadratic weighted kappa",
    "accuracy": "accuracy",
    "auc_one_vs_rest": "AUC one-vs-rest",
    "auc_referable": "AUC referable",
}


@dataclass(frozen=True)
class Hospital:
    """The hospital's files: what lands tonight, and what is held out."""

    outbox: Path
    held_out: Path
    source: str
    phantom: bool


def run_demo(console: Console, data: Path | None) -> None:
    """Play the hospital, start the platform, run a night and show what came of it."""
    begun = time.monotonic()
    console.rule("The hospital")
    hospital = play_hospital(console, data)  # first: photographs that cannot be used are said before servers start
    console.rule("The platform")
    start_platform(console.print)
    settings = load_settings()
    _land(console, settings, hospital)
    console.rule("The night")
    console.print(f"Watch it at {settings.airflow_url} (user {settings.airflow_user}, password: `qfundus login`).")
    night = run_night(settings, lambda line: console.print(line, highlight=False, soft_wrap=True))
    console.rule("What came of it")
    _show(console, settings, hospital, night)
    console.print(f"Done in {time.monotonic() - begun:.0f} s. The platform stays up: `make down` stops it.")


def play_hospital(console: Console, data: Path | None, held_out: int = HELD_OUT) -> Hospital:
    """Wrap the photographs as DICOM with invented identities; the last patients' eyes are held out."""
    folder = state_folder() / "hospital"
    shutil.rmtree(folder, ignore_errors=True)
    photographs = find_photographs(data, state_folder() / "cache" / "medmnist")
    _announce(console, photographs)
    eyes = list(wrap_photographs(photographs))
    trained = len(eyes) - min(held_out, len(eyes) // 5)
    trained -= trained % 2  # both eyes of a patient stay together
    hospital = Hospital(folder / "outbox", folder / "held_out", photographs.source, photographs.phantom)
    landing = write_hospital(iter(eyes[:trained]), hospital.outbox)
    write_hospital(iter(_readable(eyes[trained:])), hospital.held_out)
    console.print(
        f"{landing} photographs wrapped as DICOM with invented identities, {len(eyes) - trained} more held out."
    )
    return hospital


def _readable(eyes: list[WrappedEye]) -> list[WrappedEye]:
    return [eye for eye in eyes if not eye.burned_in]


def _announce(console: Console, photographs: Photographs) -> None:
    console.print(f"{len(photographs.images)} photographs from {photographs.source}.")
    if photographs.phantom:
        console.print("[bold yellow]PHANTOM EYES: drawn by a program, no real eye. Pass DATA=<npz or folder>.[/]")


def _land(console: Console, settings: Settings, hospital: Hospital) -> None:
    with console.status("Landing ...") as status:
        landed = land_folder(settings, hospital.outbox, lambda done, of: status.update(f"Landing: {done} of {of}"))
    console.print(f"Put {landed} objects into the landing bucket.")


def _show(console: Console, settings: Settings, hospital: Hospital, night: Night) -> None:
    served = champion_version(settings)
    recorded = read_version(settings, served) if served else None
    table = Table("", "tonight", title="PHANTOM EYES, no real eye" if hospital.phantom else None, show_lines=True)
    table.add_row("photographs from", hospital.source)
    table.add_row("eyes ingested", str(night.counts.get("images curated", "none new")))
    table.add_row("quarantined", describe_quarantine(night.counts))
    table.add_row("retraining", night.retrained.get("note", "none: no eye is new"))
    table.add_row("served version", f"{served or 'none'} ({night.promoted.get('reason', 'as before')})")
    if recorded:
        table.add_row("report", str(_fetch_report(recorded, settings)))
    for name, url in _addresses(settings).items():
        table.add_row(name, url)
    console.print(table)
    if recorded:
        console.print(_model_table(recorded))
        console.print(_grading_table(settings, hospital))


def describe_quarantine(counts: dict[str, int]) -> str:
    """Say how many items went to quarantine, and why."""
    reasons = {name.removeprefix("quarantined: "): n for name, n in counts.items() if name.startswith("quarantined: ")}
    return ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "none"


def _fetch_report(recorded: Recorded, settings: Settings) -> Path:
    return download_report(settings, recorded.run_id, state_folder() / "reports" / f"version-{recorded.version}")


def _addresses(settings: Settings) -> dict[str, str]:
    return {
        "Airflow": settings.airflow_url,
        "MLflow": settings.mlflow_uri,
        "Triton": f"http://{settings.triton_http}/v2/models/fundus_grader (gRPC {settings.triton_grpc})",
    }


def _model_table(recorded: Recorded) -> Table:
    eyes = f"{recorded.eyes['eyes']} graded eyes of {recorded.eyes['patients']} patients"
    table = Table("figure", *FORMS, title=f"Version {recorded.version}: {eyes}, measured on unseen patients")
    for metric, name in _SHOWN.items():
        table.add_row(name, *(str(Estimate(**recorded.figures[form][metric])) for form in FORMS))
    return table


def _grading_table(settings: Settings, hospital: Hospital) -> Table:
    files = sorted(hospital.held_out.glob("*.dcm"))
    site = open_site(settings)
    over_http = grade_files(site, files, protocol="http")
    over_grpc = grade_files(site, files, protocol="grpc")
    given = _given_grades(hospital.held_out / SHEET_NAME)
    table = Table(
        "held-out eye", "given", "HTTP", "gRPC", "sure", "to a person", "version", title="Graded through Triton"
    )
    for first, second in zip(over_http, over_grpc, strict=True):
        table.add_row(*_grading_row(first, second, given))
    return table


def _grading_row(first: GradedEye, second: GradedEye, given: dict[str, str]) -> tuple[str, ...]:
    if first.refused:
        return first.eye, "", first.refused, "", "", first.referral, ""
    sure = f"{max(first.probabilities):.0%}"
    return (
        first.eye,
        given.get(first.sop_instance_uid, "?"),
        str(first.grade),
        str(second.grade),
        sure,
        first.referral,
        first.version,
    )


def _given_grades(sheet: Path) -> dict[str, str]:
    with sheet.open() as stream:
        return {row["SOPInstanceUID"]: row["grade"] for row in csv.DictReader(stream)}
