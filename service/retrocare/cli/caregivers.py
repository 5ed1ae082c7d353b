"""The commands ``retrocare caregiver``: who is told about a patient, and how."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated
from uuid import UUID

import typer

from retrocare.cli.console import Json, PatientName, Yes, confirm, find, opened, reported, show
from retrocare.database.client import Contact, Database, Row
from retrocare.errors import ConfigurationError, NotFound
from retrocare.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="The people who are told about a patient.")

ROLES = ("viewer", "family", "clinician", "primary")
SHOWN = ("id", "patient", "role", "name", "phone", "webhook_url", "patient_known_as", "language", "is_reachable")

Caregiver = Annotated[str, typer.Argument(metavar="CAREGIVER", help="Id, or name.")]
Role = Annotated[str | None, typer.Option(help="viewer, family, clinician or primary.")]
Phone = Annotated[str | None, typer.Option(help="For text messages, such as +4930123456.")]
Webhook = Annotated[str | None, typer.Option("--webhook", help="Where signed messages are posted, over https.")]
KnownAs = Annotated[str | None, typer.Option(help="What messages call the patient, such as Mum.")]
Language = Annotated[str | None, typer.Option(help="Of messages, such as en.")]
Account = Annotated[UUID | None, typer.Option("--account", help="The id of the caregiver's account (auth.users).")]


@app.command("add")
def add_caregiver(
    patient: PatientName,
    name: str,
    role: Annotated[str, typer.Option(help="viewer, family, clinician or primary.")] = "family",
    phone: Phone = None,
    webhook: Webhook = None,
    known_as: KnownAs = None,
    language: Language = None,
    account: Account = None,
    as_json: Json = False,
) -> None:
    """Add somebody who is told about a patient."""
    given = contact(role, name, phone, webhook, known_as, language, account)
    with opened() as database:
        added = database.add_caregiver(find(database, patient), given)
        show([find_caregiver(database, str(added["id"]))], as_json, SHOWN)


@app.command("list")
def list_caregivers(
    patient: Annotated[str | None, typer.Argument(metavar="[PATIENT]", help="Id or name; all by default.")] = None,
    as_json: Json = False,
) -> None:
    """List who cares for whom, and whether messages reach them."""
    with opened() as database:
        show(database.caregiver_list(find(database, patient) if patient else None), as_json, SHOWN)


@app.command("change")
def change_caregiver(
    caregiver: Caregiver,
    name: Annotated[str | None, typer.Option(help="What the caregiver is called.")] = None,
    role: Role = None,
    phone: Phone = None,
    webhook: Webhook = None,
    known_as: KnownAs = None,
    language: Language = None,
    account: Account = None,
    as_json: Json = False,
) -> None:
    """Change a caregiver: what is not given stays, an empty text clears it."""
    given = contact(role, name, phone, webhook, known_as, language, account)
    with opened() as database:
        present = find_caregiver(database, caregiver)
        changed = {name: present[name] if value is None else value or None for name, value in vars(given).items()}
        database.change_caregiver(present["id"], Contact(**changed))
        show(
            [row for row in database.caregiver_list(present["patient_id"]) if row["id"] == present["id"]],
            as_json,
            SHOWN,
        )


@app.command("remove")
def remove_caregiver(caregiver: Caregiver, yes: Yes = False, as_json: Json = False) -> None:
    """Remove a caregiver, and the messages that wait for this person."""
    with opened() as database:
        found = find_caregiver(database, caregiver)
        goes = [f"{found['name']} ({found['role']}) would no longer be told about {found['patient']}."]
        confirm("Remove this caregiver?", goes, yes)
        database.remove_caregiver(found["id"])
        show([{"removed": found["id"], "name": found["name"], "patient": found["patient"]}], as_json)


@app.command("webhook-secret")
def webhook_secret(url: str, as_json: Json = False) -> None:
    """Print the secret with which messages to this webhook are signed; its receiver needs this one and no other."""
    with reported():
        secret = read_settings().alert_webhook_secret
        if secret is None:
            raise ConfigurationError("ALERT_WEBHOOK_SECRET is not set", "Set it as the edge functions have it.")
    found = hmac.new(secret.get_secret_value().encode(), url.encode(), hashlib.sha256).hexdigest()
    show([{"url": url, "secret": found}], as_json) if as_json else print(found)


def contact(
    role: str | None,
    name: str | None,
    phone: str | None,
    webhook: str | None,
    known_as: str | None,
    language: str | None,
    account: UUID | None,
) -> Contact:
    if role is not None and role not in ROLES:
        raise typer.BadParameter(f"--role is one of {', '.join(ROLES)}, not {role}")
    return Contact(role, name, phone, webhook, str(account) if account else None, known_as, language)


def find_caregiver(database: Database, caregiver: str) -> Row:
    """Return the caregiver with this id or name."""
    found = [row for row in database.caregiver_list(None) if caregiver in (str(row["id"]), row["name"])]
    if len(found) == 1:
        return found[0]
    what = "Several caregivers are" if found else "No caregiver is"
    raise NotFound(f"{what} called {caregiver!r}", "`retrocare caregiver list` shows their ids.", "unknown_caregiver")
