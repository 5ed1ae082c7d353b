"""The operator's commands: run the service, look after the work list and the database."""

from __future__ import annotations

import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from retrocare.cli.alerts import show_queued
from retrocare.cli.console import (
    Json,
    find,
    opened,
    print_json,
    print_json_line,
    print_rows,
    read_settings_or_exit,
    reported,
    say,
    show,
)
from retrocare.database import migrations
from retrocare.database.client import JOB_FAILED
from retrocare.database.connection import migrated
from retrocare.errors import BadRequest
from retrocare.settings import read_settings

ISSUES = ("kind", "subject", "code", "detail", "patient_id", "occurred_at")
PAST = ("recording_lost", "delivery_dead")  # issues that are over; only recent ones are listed
LISTED = ("id", "state", "is_backfill", "reason", "attempts", "run_at", "worker", "error_code", "call_log_id")


def start(
    host: Annotated[str | None, typer.Option(help="Where to listen; loopback by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8000 by default; 0: any free one.")] = None,
    work: Annotated[bool, typer.Option(help="Run a worker and the scheduler as well.")] = True,
) -> None:
    """Run the HTTP service, a worker and the scheduler until Ctrl-C."""
    with reported():
        settings = read_settings()
        given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
        settings = settings.model_copy(update=given)
        from retrocare.cli.server import serve

        serve(settings, with_worker=work)


def worker() -> None:
    """Run a worker and the scheduler until Ctrl-C, without the HTTP service. Any number share the work list."""
    with reported():
        settings = read_settings()
        from retrocare.cli.server import work

        work(settings)


def checks(
    state: Annotated[list[str] | None, typer.Option(help="Only these: queued, leased, dead, or another end.")] = None,
    patient: Annotated[str | None, typer.Option(help="Only this patient's: id or name.")] = None,
    requeue: Annotated[list[int] | None, typer.Option(help="Queue this dead check again.", metavar="ID")] = None,
    requeue_dead: Annotated[bool, typer.Option(help="Queue every dead check again whose recording is kept.")] = False,
    most: Annotated[int, typer.Option(min=1, help="How many to list.")] = 50,
    as_json: Json = False,
) -> None:
    """List the checks, newest first, with the last error of each; or queue dead ones again."""
    with opened() as database:
        if requeue or requeue_dead:
            queued = database.requeue_checks(requeue, None)
            show_queued(queued, requeue, "check", "`retrocare checks --state dead`", as_json)
            return
        whose = find(database, patient) if patient else None
        try:
            show(database.check_list(state, whose, most), as_json, LISTED)
        except BadRequest:
            raise typer.BadParameter("--state is queued, leased, or an end: scored, enrolled, dead, ...") from None


def issues(
    days: Annotated[
        int, typer.Option(min=1, help="Of what is over (recordings lost, messages dead), only so many days.")
    ] = 30,
    as_json: Json = False,
) -> None:
    """List what waits for the operator: calls of unknown people, lost recordings, messages that cannot be sent."""
    since = datetime.now(UTC) - timedelta(days=days)
    with opened() as database:
        found = [
            row
            for row in database.operator_issues()
            if row["kind"] not in PAST or row["occurred_at"] is None or row["occurred_at"] >= since
        ]
    show(sorted(found, key=lambda row: (row["kind"], str(row["occurred_at"]))), as_json, ISSUES)


def run_jobs(as_json: Json = False) -> None:
    """Run every job now, as pg_cron and `retrocare start` do when it is due; say how much each did."""
    with opened() as database:
        done = {job: database.run_job(job) for job in database.due_jobs(all_of_them=True)}
        failed = [row for row in database.operator_issues() if row["kind"] == "job_failed"]
    print_json(done) if as_json else print_rows([{"job": job, "done": count} for job, count in done.items()])
    for row in failed:
        say(f"Not done: {row['subject']}: {row['detail']} ({row['code']})")
    if failed or JOB_FAILED in done.values():
        sys.exit(1)


def migrate(
    url: Annotated[
        str | None, typer.Option(help="The owner's login; DATABASE_URL, or the embedded one, by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Apply the migrations that are not applied yet."""
    with reported():
        settings = read_settings()
        owner = url or (settings.database_url.get_secret_value() if settings.database_url else None)
        if owner:
            applied = migrations.migrate(owner, say)
        else:
            with migrated(settings, say) as (_, applied):
                pass
        count = f"{len(applied)} migration{'s' if len(applied) != 1 else ''}"
        told = f"{count} applied; the database is up to date."
        print_json({"applied": applied}) if as_json else print(told)


def database_url(
    owner: Annotated[bool, typer.Option(help="The owner's login, not the service's (embedded only).")] = False,
    keep: Annotated[bool, typer.Option(help="Keep the embedded database running until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Print the URL of the database."""
    settings = read_settings_or_exit()
    with opened() as database:
        given = settings.database_url.get_secret_value() if settings.database_url else None
        found = given or str(database.owner_url if owner else database.service_url)
        print_json({"url": found}) if as_json else print(found, flush=True)
        if keep:
            say("The database runs until Ctrl-C.")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        elif given is None:
            say("The embedded database stops with its last user: `retrocare url --keep` or `retrocare start` keeps it.")


def doctor(as_json: Json = False) -> None:
    """Check everything that judging a call needs, and say what is missing."""
    from retrocare.cli.doctor import diagnose

    rows = []
    with reported():
        for row in diagnose(read_settings(), say):
            rows.append(row)
            if as_json:
                print_json_line(row)
    if not as_json:
        print_rows(rows)
    if any(row["state"] == "missing" for row in rows):
        sys.exit(1)
