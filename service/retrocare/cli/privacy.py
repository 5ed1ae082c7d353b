"""The privacy officer's commands: erase, export, the audit trail, tombstones."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from retrocare.cli.console import Json, PatientName, Yes, confirm, find, opened, print_json, say, show
from retrocare.database.client import Database
from retrocare.errors import BadRequest

AUDITED = ("occurred_at", "action", "actor_role", "actor_id", "subject", "detail")


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
    """Say what would be erased, ask, erase it, and show what was; the consent ends with it."""
    rows = database.erasure_preview(patient_id)
    goes = [f"Of {name} would go: {', '.join(str(row['row_count']) + ' ' + row['erased'] for row in rows)}."]
    goes += ["The consent to voiceprints would end."]
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
    """Print who was erased, to be kept apart from backups; or replay such a file after a restore."""
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
