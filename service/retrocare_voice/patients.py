"""The commands ``retrocare patient``."""

from __future__ import annotations

from typing import Annotated

import typer

from retrocare_voice import privacy
from retrocare_voice.console import Json, PatientName, When, find, moment, opened, say, show

app = typer.Typer(no_args_is_help=True, help="The people who are phoned.")


@app.command("add")
def add_patient(
    name: str,
    timezone: Annotated[str, typer.Option(help="Where the patient lives, such as Europe/Berlin.")] = "UTC",
    consent: Annotated[bool, typer.Option(help="The patient has agreed to voiceprints.")] = False,
    as_json: Json = False,
) -> None:
    """Add a patient. Without consent, nothing of the patient's voice is stored."""
    if not name.strip():
        raise typer.BadParameter("a patient has a name")
    with opened() as database:
        if name in [row["name"] for row in database.patient_list()]:
            say(f"Another patient is called {name}: from now on, say which by the id.")
        show([database.add_patient(name, timezone, consent)], as_json, ("id", "name", "timezone", "voice_consent_at"))


@app.command("list")
def list_patients(as_json: Json = False) -> None:
    """List the patients, their baselines, last scores and open alerts."""
    with opened() as database:
        show(database.patient_list(), as_json, ("name", "id", "sample_count", "last_anomaly_score", "alert_level"))


@app.command("flag")
def flag_patient(patient: PatientName, flag: str, since: When = None, as_json: Json = False) -> None:
    """Note that a patient is unwell: calls of that time enrol nothing, and their samples leave the baseline."""
    with opened() as database:
        show([database.flag_patient(find(database, patient), flag, moment(since))], as_json)


@app.command("unflag")
def unflag_patient(
    patient: PatientName,
    flag: Annotated[str | None, typer.Argument(help="Only this flag; all by default.")] = None,
    since: When = None,
    as_json: Json = False,
) -> None:
    """Note that a patient is well again."""
    with opened() as database:
        show(database.unflag_patient(find(database, patient), flag, moment(since)), as_json)


app.command("erase")(privacy.erase)
app.command("export")(privacy.export)


@app.command("consent")
def consent(
    patient: PatientName,
    withdraw: Annotated[bool, typer.Option(help="The patient no longer agrees.")] = False,
    as_json: Json = False,
) -> None:
    """Record that a patient agrees to voiceprints, or no longer does."""
    with opened() as database:
        row = database.set_consent(find(database, patient), not withdraw)
        show([row], as_json, ("id", "name", "voice_consent_at"))
