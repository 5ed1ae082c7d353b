"""The privacy officer's commands: erase, export, the audit, tombstones; and ``retrocare key``."""

from __future__ import annotations

import json
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from retrocare_voice.auth import hash_of
from retrocare_voice.console import Json, PatientName, find, opened, print_json, reported, say, show
from retrocare_voice.errors import BadRequest, NotFound

SCOPES = ("embed", "check", "read", "admin")
KEYS = ("name", "scopes", "created_at", "last_used_at", "revoked_at")
AUDITED = ("occurred_at", "action", "actor_role", "actor_id", "subject", "detail")

keys = typer.Typer(no_args_is_help=True, help="The machines that may call the service.")


def erase(
    patient: PatientName,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the tombstone.")],
    person: Annotated[bool, typer.Option(help="The whole person, not the voice alone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a patient's voice for good: voiceprints, baselines, checks, recordings."""
    with opened() as database:
        patient_id = find(database, patient)
        what = "everything that is kept of" if person else "the voice of"
        if not yes and not (sys.stdin.isatty() and typer.confirm(f"Erase {what} {patient}? It cannot be undone.")):
            raise BadRequest("Nothing was erased", "Confirm it, or say --yes.", "not_confirmed")
        counts = database.erase(patient_id, reason, person)
        show([{"erased": name, "rows": count} for name, count in counts.items()], as_json)
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
    as_json: Json = False,
) -> None:
    """Print who was erased, JSON a line, to be kept apart from the backups; or replay such a file after a restore."""
    with opened() as database:
        if replay is None:
            for row in database.tombstones():
                print(json.dumps(row, default=str))
            return
        erased = 0
        for number, line in enumerate(_lines(replay), 1):
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
        raise BadRequest(f"{file} cannot be read: {error}", code="unreadable_file") from None


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
    with opened() as database:
        row = database.add_api_key(name, scope, hash_of(key))
    show([{"key": key} | row], as_json, ("key", "name", "scopes"))
    say("It is not shown again: only its hash is kept.")


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the keys: whose they are, what they allow, when they were last used."""
    with opened() as database:
        show(database.api_keys(), as_json, KEYS)


@keys.command("revoke")
def revoke_key(name: str, as_json: Json = False) -> None:
    """Refuse a key from the next request on."""
    with reported(), opened() as database:
        if not database.revoke_api_key(name):
            raise NotFound(f"No key that stands is called {name!r}", "`retrocare key list` shows them.", "unknown_key")
        if as_json:
            print_json({"revoked": name})
        say(f"The key of {name} is refused from now on.")
