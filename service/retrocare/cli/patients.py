"""The commands ``retrocare patient``."""

from __future__ import annotations

from typing import Annotated

import typer

from retrocare.cli import baselines, privacy
from retrocare.cli.console import (
    Json,
    PatientName,
    When,
    Yes,
    confirm,
    find,
    moment,
    naming,
    opened,
    say,
    show,
)
from retrocare.database.client import Database
from retrocare.errors import NotFound

app = typer.Typer(no_args_is_help=True, help="The people who are phoned.")

SHOWN = ("id", "name", "timezone", "phone", "silent_after_days", "voice_consent_at")
Evidence = Annotated[str | None, typer.Option(help="How consent was given, and where that can be found.")]
Zone = Annotated[str | None, typer.Option(help="Where the patient lives, such as Europe/Berlin.")]


@app.command("add")
def add_patient(
    name: str,
    timezone: Annotated[str, typer.Option(help="Where the patient lives, such as Europe/Berlin.")] = "UTC",
    consent: Annotated[bool, typer.Option(help="The patient has agreed to voiceprints.")] = False,
    evidence: Evidence = None,
    as_json: Json = False,
) -> None:
    """Add a patient. Without consent, nothing of the patient's voice is stored."""
    if not name.strip():
        raise typer.BadParameter("a patient has a name")
    if evidence is not None and not consent:
        raise typer.BadParameter("--evidence goes with --consent")
    with opened() as database, naming(a_patients_timezone_is_a_zone=timezone):
        if name in [row["name"] for row in database.patient_list()]:
            say(f"Another patient is called {name}: from now on, say which by the id.")
        show([database.add_patient(name, timezone, consent, evidence)], as_json, SHOWN)


@app.command("set")
def set_patient(
    patient: PatientName,
    name: Annotated[str | None, typer.Option(help="What the patient is called.")] = None,
    timezone: Zone = None,
    phone: Annotated[str | None, typer.Option(help="Such as +4930123456; an empty text: none.")] = None,
    silent_after_days: Annotated[
        int | None, typer.Option(min=0, help="As many days without a judged call raise an alert; 0: no schedule.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change a patient: what is not given stays."""
    if name is not None and not name.strip():
        raise typer.BadParameter("a patient has a name")
    given = naming(
        a_patients_timezone_is_a_zone=timezone,
        a_patients_phone_is_a_number=phone,
        silence_takes_between_a_day_and_a_year=silent_after_days,
    )
    with opened() as database, given:
        changed = database.change_patient(find(database, patient), name, timezone, phone, silent_after_days)
        show([changed], as_json, SHOWN)


@app.command("list")
def list_patients(as_json: Json = False) -> None:
    """List the patients, their baselines, last scores and open alerts."""
    with opened() as database:
        show(
            database.patient_list(),
            as_json,
            ("name", "id", "open_flags", "sample_count", "last_anomaly_score", "alert_level"),
        )
        warn_of_unknown_flags(database)


def warn_of_unknown_flags(database: Database) -> None:
    for row in database.unknown_flags():
        say(f"{row['patient']} is flagged {row['flag']!r}, in which no word of care.sickness_words is found.")
        say("      It holds nothing back: `retrocare patient flag` notes any illness, in any words.")


@app.command("flag")
def flag_patient(patient: PatientName, flag: str, since: When = None, yes: Yes = False, as_json: Json = False) -> None:
    """Note that a patient is unwell, in any words: calls of that time are kept out of the baseline."""
    if not flag.strip():
        raise typer.BadParameter("a flag says something")
    with opened() as database:
        patient_id, started_at = find(database, patient), moment(since)
        if samples := database.covered_samples(patient_id, started_at):
            goes = f"{samples} samples of the baseline are of calls since {started_at:%Y-%m-%d %H:%M}: they leave it."
            confirm(f"Note that {patient} has been unwell since then?", [goes], yes)
        show([database.flag_patient(patient_id, flag, started_at)], as_json)


@app.command("unflag")
def unflag_patient(
    patient: PatientName,
    flag: Annotated[str | None, typer.Argument(help="Only this flag; all by default.")] = None,
    since: When = None,
    as_json: Json = False,
) -> None:
    """Note that a patient is well again."""
    with opened() as database:
        resolved = database.unflag_patient(find(database, patient), flag, moment(since))
        if not resolved:
            what = f"No health flag called {flag!r} is open" if flag else "No health flag is open"
            raise NotFound(what, "`retrocare patient list` shows the open ones.", "unknown_flag")
        show(resolved, as_json)


app.command("erase")(privacy.erase)
app.command("export")(privacy.export)
app.command("baseline")(baselines.baseline)
app.command("withdraw-sample")(baselines.withdraw_sample)


@app.command("consent")
def consent(
    patient: PatientName,
    withdraw: Annotated[bool, typer.Option(help="The patient no longer agrees: the voice is erased.")] = False,
    evidence: Evidence = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Record that a patient agrees to voiceprints, or no longer does."""
    if withdraw and evidence is not None:
        raise typer.BadParameter("--evidence is of a consent, not of its withdrawal")
    with opened() as database:
        patient_id = find(database, patient)
        if withdraw:
            privacy.erase_voice(database, patient_id, patient, "consent withdrawn", yes, as_json)
            return
        show([database.set_consent(patient_id, True, evidence)], as_json, SHOWN)
