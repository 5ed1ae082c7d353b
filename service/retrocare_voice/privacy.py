"""The privacy officer's commands: erase, export, the audit, tombstones; and ``retrocare key``."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from retrocare_voice.auth import hash_of
from retrocare_voice.console import Json, PatientName, Yes, confirm, find, naming, opened, print_json, say, show
from retrocare_voice.database import Database
from retrocare_voice.errors import BadRequest, NotFound

SCOPES = ("embed", "check", "read", "admin")
KEYS = ("name", "scopes", "created_at", "last_used_at", "revoked_at")
AUDITED = ("occurred_at", "action", "actor_role", "actor_id", "subject", "detail")

keys = typer.Typer(no_args_is_help=True, help="The machines that may call the service.")


def erase(
    patient: PatientName,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the tombstone.")],
    person: Annotated[bool, typer.Option(help="The whole person, not the voice alone.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase a patient's voice for good: voiceprints, baselines, checks, recordings."""
    with opened() as database:
        erase_voice(database, find(database, patient), patient, reason, yes, as_json, person=person)


def erase_voice(
    database: Database, patient_id: UUID, name: str, reason: str, yes: bool, as_json: bool, *, person: bool = False
) -> None:
    """Say what would go, ask, and show what went; without a voice there is no consent either."""
    rows = database.erasure_preview(patient_id)
    goes = [f"Of {name} would go: {', '.join(str(row['row_count']) + ' ' + row['erased'] for row in rows)}."]
    goes += ["The patient, every call, score and alert would go as well."] if person else []
    what = "everything that is kept of" if person else "the voice of"
    confirm(f"Erase {what} {name}, and end the consent? It cannot be undone.", goes, yes)
    counts = database.erase(patient_id, reason, person)
    show([{"erased": kind, "rows": count} for kind, count in counts.items()], as_json)
    say("Copies in Storage and at the provider are deleted by the edge function delete-recordings.")


def export(patient: PatientName, as_json: Json = True) -> None:
    """Print everything that is kept of a patient, without the vectors; always as JSON."""
    with opened() as database:
        print_json(database.export_patient(find(database, patient)))


def audit(
    patient: Annotated[str | None, typer.Option(help="Only about this patient: id or name.")] = None,
    days: Annotated[int, typer.Option(min=1)] = 30,
    as_json: Json = False,
) -> None:
    """Show who did what and when, newest first."""
    with opened() as database:
        since = datetime.now(UTC) - timedelta(days=days)
        show(database.audit_trail(find(database, patient) if patient else None, since), as_json, AUDITED)


def tombstones(
    replay: Annotated[Path | None, typer.Option(help="A file of tombstones: erase again whom it names.")] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Print who was erased, JSON a line, to be kept apart from the backups; or replay such a file after a restore."""
    with opened() as database:
        if replay is None:
            for row in database.tombstones():
                print(json.dumps(row, default=str))
            return
        erased, lines = 0, _lines(replay)
        confirm("Erase again whoever they name?", [f"{replay} holds {len(lines)} tombstones."], yes)
        for number, line in enumerate(lines, 1):
            try:
                tombstone = {name: str(value) for name, value in json.loads(line).items()}
                erased += database.replay_tombstone(**tombstone)
            except (ValueError, TypeError, AttributeError):
                raise BadRequest(f"{replay}, line {number} is no tombstone", "Nothing after it was replayed.") from None
        if as_json:
            print_json({"replayed": erased})
        say(f"{erased} erasures were replayed; the others were made in this database.")


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadRequest(f"{file} cannot be read: {why}", code="unreadable_file") from None


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    scope: Annotated[list[str], typer.Option(help="embed, check, read or admin; several times for several.")],
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    if unknown := [given for given in scope if given not in SCOPES]:
        raise typer.BadParameter(f"--scope is one of {', '.join(SCOPES)}, not {unknown[0]}")
    key = f"rcv_{secrets.token_urlsafe(32)}"
    with opened() as database, naming(a_name_stands_for_one_key_of_an_organisation=name):
        is_first = not database.api_keys()
        row = database.add_api_key(name, scope, hash_of(key))
    show([{"key": key} | row], as_json, ("key", "name", "scopes"))
    say("It is not shown again: only its hash is kept.")
    if is_first:
        say("It is the first key: from now on every request to the service needs one.")


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the keys: whose they are, what they allow, when they were last used."""
    with opened() as database:
        show(database.api_keys(), as_json, KEYS)


@keys.command("revoke")
def revoke_key(name: str, yes: Yes = False, as_json: Json = False) -> None:
    """Refuse a key from the next request on."""
    with opened() as database:
        standing = next((key for key in database.api_keys() if key["name"] == name and not key["revoked_at"]), None)
        if standing is None:
            raise NotFound(f"No key that stands is called {name!r}", "`retrocare key list` shows them.", "unknown_key")
        used = f"last used {standing['last_used_at']:%Y-%m-%d %H:%M}" if standing["last_used_at"] else "never used"
        goes = [f"The key of {name} allows {', '.join(standing['scopes'])} and was {used}."]
        confirm("Refuse it from now on? It cannot be undone.", goes, yes)
        database.revoke_api_key(name)
        show([{"revoked": name}], as_json)
        say(f"The key of {name} is refused from now on.")
