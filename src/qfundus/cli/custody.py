"""What a security reviewer answers for: quarantine, audit trail, vault and key."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from qfundus.cli.shared import AsJson, KeyFile, columns, console, load_site_key, print_rows
from qfundus.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qfundus.deidentify_folder.quarantine import FolderQuarantine
    from qfundus.ingestion.quarantine import Quarantine
    from qfundus.security.audit import AuditTrail, Record

T = TypeVar("T")
quarantine = typer.Typer(help="Inspect, release or drop what could not be used.", no_args_is_help=True)
audit = typer.Typer(help="Who did what, when and why.", no_args_is_help=True)
vault = typer.Typer(help="Find who is behind a pseudonym.", no_args_is_help=True)
key = typer.Typer(help="Manage the site's secret.", no_args_is_help=True)
_Folder = Annotated[
    Path | None,
    typer.Option(help="A folder that `qfundus deidentify` wrote; default: the platform's quarantine.", exists=True),
]


@quarantine.command("list")
def list_quarantine(folder: _Folder = None, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List what is in quarantine, with reason and remedy."""
    rows = [vars(item) | {"remedy": item.remedy} for item in _open_quarantine(folder, key_file).list()]
    if rows or as_json:
        print_rows(columns("source", "reason", "detail", "remedy"), rows, as_json=as_json)
    else:
        console.print("Nothing is in quarantine.")


_Sources = Annotated[list[str], typer.Argument(help="Pseudonyms as `quarantine list` shows them.")]


def _check_why(why: str) -> str:
    if len(why.strip()) < 5:
        raise typer.BadParameter("Give a reason of at least five letters: it goes into the audit trail.")
    return why


_Why = Annotated[str, typer.Option("--why", prompt=True, callback=_check_why, help="The reason, for the audit trail.")]


@quarantine.command("show")
def show_quarantined(
    source: Annotated[str, typer.Argument(help="A pseudonym as `quarantine list` shows it.")],
    to: Annotated[Path, typer.Option("--to", help="The file to write the original to: it identifies a person.")],
    why: _Why,
    folder: _Folder = None,
    key_file: KeyFile = None,
) -> None:
    """Write an item, as it arrived, to a file that only you can read. Your access and its reason are recorded."""
    from qfundus.platform.secrets import write_private_bytes

    if to.exists():
        raise SetupError(f"{to} already exists: choose another file.")
    write_private_bytes(to, _decide(source, folder, key_file, lambda held: held.show(source, why)))
    console.print(f"{source} was written to {to}. Delete it after use.", soft_wrap=True)


@quarantine.command("release")
def release_from_quarantine(sources: _Sources, why: _Why, folder: _Folder = None, key_file: KeyFile = None) -> None:
    """Let the next run take items in as they arrived, and trust that their pixels show no text."""
    for source in sources:
        _decide(source, folder, key_file, lambda held, source=source: held.release(source, why))
        console.print(f"The next run will take in {source}.")


@quarantine.command("drop")
def drop_from_quarantine(sources: _Sources, why: _Why, folder: _Folder = None, key_file: KeyFile = None) -> None:
    """Delete items for good."""
    for source in sources:
        _decide(source, folder, key_file, lambda held, source=source: held.drop(source, why))
        console.print(f"Deleted {source}.")


def _decide(
    source: str, folder: Path | None, key_file: Path | None, decision: "Callable[[Quarantine | FolderQuarantine], T]"
) -> "T":
    try:
        return decision(_open_quarantine(folder, key_file))
    except LookupError:
        raise SetupError(f"{source} is not in quarantine: see `qfundus quarantine list`.") from None


def _open_quarantine(folder: Path | None, key_file: Path | None) -> "Quarantine | FolderQuarantine":
    if folder is not None:
        from qfundus.deidentify_folder.quarantine import FolderQuarantine

        return FolderQuarantine(folder, load_site_key(key_file))
    from qfundus.ingestion.quarantine import Quarantine
    from qfundus.settings import load_settings
    from qfundus.site import open_site

    settings = load_settings()
    return Quarantine(open_site(settings, load_site_key(key_file)))


@audit.command("list")
def list_audit(folder: _Folder = None, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List who did what, when and why."""
    rows = [_describe_record(record) for record in _open_trail(folder, key_file).records()]
    print_rows(columns("number", "time", "user", "object", "action", "reason", "details"), rows, as_json=as_json)


def _describe_record(record: "Record") -> dict[str, Any]:
    event, entity = record.event, record.event["entity"][0]
    return {
        "number": record.number,
        "time": event["recorded"],
        "user": event["agent"][0]["who"]["identifier"]["value"],
        "object": entity["what"]["identifier"]["value"],
        "action": event["action"],
        "reason": event["purposeOfEvent"][0]["text"],
        "details": " ".join(f"{detail['type']}={detail['valueString']}" for detail in entity["detail"]),
    }


@audit.command("verify")
def verify_audit(
    folder: _Folder = None,
    key_file: KeyFile = None,
    public_key: Annotated[
        list[str] | None, typer.Option(help="Check with these keys only, as a reviewer would; newest first.")
    ] = None,
    expect: Annotated[str, typer.Option(help="NUMBER:DIGEST from an earlier call; fails if that record changed.")] = "",
) -> None:
    """Find changed, missing or reordered records; exit with 1 if there are any."""
    from qfundus.security.audit import Finding

    trail = _open_trail(folder, key_file, tuple(public_key or ()))
    findings = trail.verify()
    if expect:
        number, _, digest = expect.partition(":")
        if not number.isdecimal() or not digest:
            raise SetupError("--expect takes NUMBER:DIGEST, as this command prints it.")
        if not trail.holds(int(number), digest):
            findings.append(Finding(int(number), "differs from --expect"))
    for finding in findings:
        console.print(f"Record {finding.number} {finding.what}.")
    head = trail.head()
    console.print(
        f"{sum(1 for _ in trail.records())} records, {len(findings)} findings. Key: {trail.public_key}. "
        f"Store this outside of the system and pass it to --expect: {head.number}:{head.digest}",
        soft_wrap=True,
    )
    raise typer.Exit(bool(findings))


def _open_trail(folder: Path | None, key_file: Path | None, public_keys: tuple[str, ...] = ()) -> "AuditTrail":
    from qfundus.security.audit import AuditTrail

    if folder is not None:
        from qfundus.deidentify_folder.run import AUDIT
        from qfundus.storage import FolderStore

        return AuditTrail(FolderStore(folder), AUDIT, None if public_keys else load_site_key(key_file), public_keys)
    from qfundus.settings import load_settings
    from qfundus.storage import ObjectStore

    settings = load_settings()
    key = None if public_keys else load_site_key(key_file)
    return AuditTrail(ObjectStore(settings), settings.audit_bucket, key, public_keys)


@vault.command("reveal")
def reveal(
    patient: Annotated[str, typer.Argument(help="The pseudonym of a patient, or of an eye.")],
    why: _Why,
    as_json: AsJson = False,
) -> None:
    """Reveal who is behind a pseudonym. Your access and its reason are recorded."""
    from qfundus.settings import load_settings
    from qfundus.site import open_site

    settings = load_settings()
    try:
        rows = open_site(settings, load_site_key(None)).vault.reveal(patient.split("-")[0], why)
    except LookupError as error:
        raise SetupError(f"{error} It keeps what came in while QFUNDUS_VAULT_BUCKET was set.") from None
    print_rows(columns("patient_id", "issuer", "study", "instance"), [vars(who) for who in rows], as_json=as_json)


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
    console.print("The new secret now seals and signs. Next: `qfundus up`, then `qfundus key reseal`.")


@key.command("reseal")
def reseal_with_key(why: _Why) -> None:
    """Reseal quarantine and vault with the newest secret."""
    from qfundus.ingestion.resealing import reseal_site
    from qfundus.settings import load_settings
    from qfundus.site import open_site

    settings = load_settings()
    done = reseal_site(open_site(settings, load_site_key(None)), why)
    console.print(f"Sealed {done} objects with the new secret.")
