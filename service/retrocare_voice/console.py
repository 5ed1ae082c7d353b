"""What all commands share: what they take, how they end, and how they print.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retrocare_voice.connection import connected
from retrocare_voice.database import Database, Row
from retrocare_voice.errors import NotFound, RetrocareError
from retrocare_voice.settings import Settings, read_settings

PatientName = Annotated[str, typer.Argument(metavar="PATIENT", help="Id or name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; its keys are the database's column names.")]
When = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"], help="A time, UTC unless it says."),
]

results = Console()
messages = Console(stderr=True)


def say(line: str) -> None:
    """Tell whoever waits what is going on; server notices about what exists already tell nothing."""
    if not line.startswith("NOTICE") or "skipping" not in line:
        messages.print(f"[dim]{escape(line)}[/dim]", highlight=False)


def complain(error: RetrocareError, about: str = "") -> None:
    """Say what was wrong, and what to do."""
    where = f"{about}: " if about else ""
    messages.print(f"[red]error[/red] {escape(where + str(error))} ({error.code})", highlight=False, soft_wrap=True)
    if error.hint:
        messages.print(f"      {escape(error.hint)}", highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table, in the given columns or all."""
    if not rows:
        return say("Nothing to show.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns or list(rows[0]):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(column), column) for column in columns or list(rows[0])))
    results.print(table)
    return None


def cell(value: object, column: str) -> str:
    """Write one value for people: scores with three digits, decibels and seconds with one, nothing for null."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case float():
            return f"{value:.1f}" if column.startswith("snr") or column.endswith("seconds") else f"{value:.3f}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M}"
        case list():
            return ", ".join(str(item) for item in value)
    return escape(str(value))


@contextmanager
def reported() -> Iterator[None]:
    """End the command with exit status 1 and a clear message where ours is the error."""
    try:
        yield
    except RetrocareError as error:
        complain(error)
        raise typer.Exit(1) from None


@contextmanager
def opened() -> Iterator[Database]:
    with reported(), connected(read_settings(), say) as database:
        yield database


def find(database: Database, patient: str) -> UUID:
    """Return the id of the patient whom an id or a name stands for."""
    found = [row for row in database.patient_list() if patient in (str(row["id"]), row["name"])]
    if len(found) == 1:
        return UUID(str(found[0]["id"]))
    what = "Several patients are" if found else "No patient is"
    raise NotFound(f"{what} called {patient!r}", "`retrocare patient list` shows their ids.", "unknown_patient")


def moment(given: datetime | None) -> datetime:
    at = given or datetime.now(UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def read_settings_or_exit() -> Settings:
    with reported():
        return read_settings()


def show(rows: list[Row], as_json: bool, columns: Sequence[str] | None = None) -> None:
    print_json(rows) if as_json else print_rows(rows, columns)
