"""The command line ``retrocare``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.progress import track

from retrocare import __version__
from retrocare.audio.decode import NAMED_CHANNELS
from retrocare.checks.explanations import explain
from retrocare.cli import alerts, backfill, caregivers, judgement, keys, operations, patients, policies, privacy
from retrocare.cli.console import (
    Json,
    PatientName,
    When,
    Yes,
    complain,
    find,
    messages,
    moment,
    opened,
    print_json_line,
    print_rows,
    reported,
    results,
    say,
    show,
)
from retrocare.database.client import Row
from retrocare.errors import NotAssessable, RetrocareError
from retrocare.settings import read_settings

if TYPE_CHECKING:
    from retrocare.checks.service import Service

EPILOG = "Exit status: 0 all of it was done, 1 something was not (the rest was), 2 wrong usage."

app = typer.Typer(no_args_is_help=True, epilog=EPILOG, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(patients.app, name="patient")
app.add_typer(keys.app, name="key")
app.add_typer(alerts.app, name="alert")
app.add_typer(alerts.deliveries, name="deliveries")
app.add_typer(caregivers.app, name="caregiver")
app.add_typer(policies.app, name="policy")
for command in (
    operations.start,
    operations.worker,
    operations.checks,
    backfill.backfill,
    judgement.calibrate,
    judgement.evaluate,
    operations.issues,
    privacy.audit,
    privacy.tombstones,
    operations.migrate,
    operations.doctor,
    policies.warnings,
):
    app.command()(command)
app.command("run-jobs")(operations.run_jobs)
app.command("url")(operations.database_url)

Files = Annotated[list[Path], typer.Argument(help="Recordings: wav, mp3, ogg, flac; m4a and webm with PyAV.")]
ChannelName = Annotated[
    str | None, typer.Option("--channel", help=f"Where the patient is: {', '.join(NAMED_CHANNELS)}.")
]

DONE = ("scored", "enrolled")
CHECKED = ("state", "reason", "verdict", "anomaly_score", "severity", "alert_type", "snr", "added_to_baseline")
LOGGED = (
    "timestamp", "rule", "verdict", "anomaly_score", "raw_similarity", "severity", "alert_type", "snr",
    "baseline_version", "notes",
)  # fmt: skip


def print_version(is_asked: bool) -> None:
    if is_asked:
        results.print(f"retrocare-voice {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def end_cleanly(
    is_version_asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """RetroCare Voice: voice embeddings in PostgreSQL, judged by SQL functions."""
    # By default SIGTERM ends the process on the spot and would leave the embedded database running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@app.command()
def demo(
    encoder: Annotated[str, typer.Option(help="ge2e, ecapa, an id or auto.", envvar="RETROCARE_ENCODER")] = "ge2e",
    speech: Annotated[Path | None, typer.Option(help="Your own recordings instead: a folder a person.")] = None,
    as_json: Json = False,
) -> None:
    """Enrol a patient, judge later calls, and show what the database then holds."""
    from retrocare.cli import demo as story

    with reported():
        # The demo always uses an embedded database, so that its voices never enter one that is in use.
        settings = read_settings().model_copy(update={"encoder": encoder, "database_url": None})
        story.run(settings, speech, as_json)


@app.command()
def embed(files: Files, channel: ChannelName = None, as_json: Json = False) -> None:
    """Turn recordings into voice embeddings; nothing is stored."""
    from retrocare.checks.service import opened_service
    from retrocare.recordings.fetch import Recording

    wanted: Any = checked_channel(channel)
    with reported(), opened_service(read_settings(), say) as service:
        limits = service.database.limits(service.encoder)

        def one(file: Path) -> Row:
            found, _ = service.embed(Recording(channel=wanted, content=file))
            row: Row = {"file": str(file), "encoder": service.encoder, "embedding": None, "speech_seconds": None}
            row |= {"snr_db": None, "agreement": None, "channel": wanted, "reason": None}
            if isinstance(found, NotAssessable):
                say(f"{file.name}: {explain(found.reason, found.measures, limits)}")
                measured = {name: found.measures[name] for name in row.keys() & found.measures.keys()}
                return row | measured | {"reason": found.reason}
            measured = {name: getattr(found, name) for name in row.keys() & vars(found).keys()}
            return row | measured | {"embedding": found.embedding.tolist()}

        columns = ("file", "encoder", "speech_seconds", "snr_db", "agreement", "channel", "reason")
        rows, failed = each(files, "Embedding", one, columns, as_json)
    finish(failed or any(row["embedding"] is None for row in rows))


@app.command()
def enroll(
    patient: PatientName,
    files: Files,
    channel: ChannelName = None,
    at: When = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the present baseline, also where these sound unlike it.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Enrol a patient from healthy recordings; three of one enrolment make a complete baseline."""
    from retrocare.checks.service import opened_service
    from retrocare.cli.enrolment import check_replacement

    wanted: Any = checked_channel(channel)
    with reported(), opened_service(read_settings(), say) as service:
        patient_id = find(service.database, patient)
        if not replace:
            check_replacement(service, patient_id, patient, files, wanted, yes)
        judge(service, patient_id, files, wanted, at, as_json, source="onboarding", enrolment_id=uuid4())


@app.command()
def check(
    patient: PatientName, files: Files, channel: ChannelName = None, at: When = None, as_json: Json = False
) -> None:
    """Judge recordings of a patient's calls."""
    from retrocare.checks.service import opened_service

    wanted: Any = checked_channel(channel)
    with reported(), opened_service(read_settings(), say) as service:
        judge(service, find(service.database, patient), files, wanted, at, as_json, source="upload")


@app.command()
def logs(patient: PatientName, days: Annotated[int, typer.Option(min=1)] = 36_500, as_json: Json = False) -> None:
    """Show a patient's scores, newest first."""
    with opened() as database:
        since = datetime.now(UTC) - timedelta(days=days)
        show(database.anomaly_logs([find(database, patient)], since), as_json, LOGGED)


def judge(
    service: Service, patient_id: UUID, files: list[Path], channel: Any, at: datetime | None, as_json: bool, **call: Any
) -> None:
    from retrocare.recordings.fetch import Recording

    limits = service.database.limits(service.encoder)

    def one(file: Path) -> Row:
        # Read first, so that a mistyped name leaves nothing in the patient's record.
        recording = Recording(channel=channel, content=Recording(content=file).read(service.settings))
        row, _ = service.judge(recording, patient_id, occurred_at=moment(at), **call)
        if row["reason"]:
            measures = service.database.call_measures(row["call_log_id"])
            say(f"{file.name}: {explain(row['reason'], measures, limits)}")
        if row["duplicate_of"]:
            say(f"{file.name}: {explain('duplicate_recording', {})} What was found then is shown.")
        return {"file": str(file)} | row

    rows, failed = each(files, "Judging", one, ("file", *CHECKED), as_json)
    finish(failed or any(row["state"] not in DONE for row in rows))


def each(
    files: Sequence[Path], label: str, work: Callable[[Path], Row], columns: Sequence[str], as_json: bool
) -> tuple[list[Row], bool]:
    """Run the work for each file and print the results, JSON at once; a failure does not stop the rest."""
    rows, failed = [], False
    for file in track(files, label, console=messages, transient=True, disable=not messages.is_terminal):
        try:
            row = work(file)
        except RetrocareError as error:
            complain(error, str(file))
            failed = True
            if not error.result:
                continue
            row = {"file": str(file)} | error.result
        rows.append(row)
        if as_json:
            print_json_line(row)
    if not as_json:
        print_rows([row | {"file": Path(row["file"]).name} for row in rows], columns)
    return rows, failed


def checked_channel(channel: str | None) -> str | None:
    if channel is not None and channel not in NAMED_CHANNELS:
        raise typer.BadParameter(f"--channel is one of {', '.join(NAMED_CHANNELS)}")
    return channel


def finish(failed: bool) -> None:
    if failed:
        sys.exit(1)
