"""The commands ``retrocare alert`` and ``retrocare deliveries``: answers to alerts, and messages."""

from __future__ import annotations

import sys
from typing import Annotated
from uuid import UUID

import typer

from retrocare.cli.console import Json, complain, find, opened, say, show
from retrocare.database.client import Database, Row
from retrocare.errors import BadRequest, NotFound

app = typer.Typer(no_args_is_help=True, help="What was found, and who sees to it.")
deliveries = typer.Typer(no_args_is_help=True, help="The messages to caregivers.")

OUTCOMES = ("ill", "not_ill", "other_person", "wrong_recording", "new_line", "other")
STATES = ("queued", "leased", "accepted", "cancelled", "dead")
SHOWN = ("patient", "id", "level", "state", "cause", "anomaly_score", "opened_at", "last_change", "last_actor")
ANSWERED = ("id", "level", "state", "outcome", "notes")
DELIVERED = ("id", "patient", "caregiver", "channel", "change", "state", "attempts", "run_at", "error_code")

Alert = Annotated[str, typer.Argument(metavar="ALERT", help="Its id, or the name of the patient.")]
OfPatient = Annotated[str | None, typer.Option("--patient", help="Only this patient's: id or name.")]
Most = Annotated[int, typer.Option(min=1, help="How many to list.")]


@app.command("list")
def list_alerts(
    patient: OfPatient = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Those that are over as well.")] = False,
    most: Most = 50,
    as_json: Json = False,
) -> None:
    """List the alerts, the unresolved and most urgent first."""
    with opened() as database:
        whose = find(database, patient) if patient else None
        columns = (*SHOWN, "outcome", "notes") if resolved else SHOWN
        show(database.alert_list(whose, resolved, most), as_json, columns)


@app.command("acknowledge")
def acknowledge(alert: Alert, as_json: Json = False) -> None:
    """Say that the care team is taking care of an alert: reminders stop, and those who were told are informed."""
    with opened() as database:
        show([database.acknowledge_alert(find_alert(database, alert))], as_json, ANSWERED)


@app.command("resolve")
def resolve(
    alert: Alert,
    outcome: Annotated[str, typer.Option(help=f"What was found: {', '.join(OUTCOMES)}.")],
    note: Annotated[str | None, typer.Option(help="In words, for the caregivers.")] = None,
    as_json: Json = False,
) -> None:
    """Close an alert; what was found has consequences.

    ill: a health flag is set, which ends by itself. not_ill: the change is forgotten. other_person, wrong_recording:
    the calls count no longer. new_line: there is a new telephone or room; the baseline is built from the calls since.
    """
    if outcome not in OUTCOMES:
        raise typer.BadParameter(f"--outcome is one of {', '.join(OUTCOMES)}, not {outcome}")
    with opened() as database:
        show([database.resolve_alert(find_alert(database, alert), outcome, note)], as_json, ANSWERED)
    if outcome == "ill":
        say("The patient is noted as unwell for a while; `retrocare patient unflag` ends it sooner.")


def find_alert(database: Database, alert: str) -> UUID:
    """Return the id of the alert that an id, or a patient's name, stands for."""
    try:
        return UUID(alert)
    except ValueError:
        found: list[Row] = database.alert_list(find(database, alert), False, 1)
    if not found:
        raise NotFound(f"{alert} has no unresolved alert", "`retrocare alert list` shows them.", "unknown_alert")
    return UUID(str(found[0]["id"]))


@deliveries.command("list")
def list_deliveries(
    state: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(STATES)}.")] = None,
    patient: OfPatient = None,
    most: Most = 50,
    as_json: Json = False,
) -> None:
    """List the messages to caregivers, newest first."""
    if unknown := [given for given in state or [] if given not in STATES]:
        raise typer.BadParameter(f"--state is one of {', '.join(STATES)}, not {unknown[0]}")
    with opened() as database:
        whose = find(database, patient) if patient else None
        show(database.delivery_list(state, whose, most), as_json, DELIVERED)


@deliveries.command("requeue")
def requeue(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Dead messages.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every dead message.")] = False,
    as_json: Json = False,
) -> None:
    """Queue dead messages again; those whose alert was answered or raised meanwhile are not sent."""
    if bool(ids) == dead:
        raise typer.BadParameter("give ids, or --dead for all")
    with opened() as database:
        queued = database.requeue_deliveries(ids)
        show_queued(queued, ids, "message", "`retrocare deliveries list --state dead`", as_json)


def show_queued(queued: list[int], wanted: list[int] | None, kind: str, listing: str, as_json: bool) -> None:
    """Print what was queued again; end with exit status 1 where something that was asked for was not."""
    show([{"queued": number} for number in sorted(queued)], as_json) if as_json else None
    say(f"{len(queued)} {kind}s are queued again.")
    if missed := sorted(set(wanted or []) - set(queued)):
        named = ", ".join(map(str, missed))
        is_one = len(missed) == 1
        told = f"{named} {f'is no dead {kind}' if is_one else f'are no dead {kind}s'} that can be tried again"
        complain(BadRequest(told, f"{listing} lists them.", "not_requeued"))
        sys.exit(1)
