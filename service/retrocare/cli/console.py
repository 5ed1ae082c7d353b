"""What all commands share: common options, questions, errors and output.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape

from retrocare.database.client import Database, Row
from retrocare.database.connection import connected
from retrocare.database.errors import NO_SPACE, SENTENCES, constraint_message
from retrocare.errors import BadRequest, NotFound, RetrocareError, Unavailable, Unprocessable
from retrocare.settings import Settings, read_settings

PatientName = Annotated[str, typer.Argument(metavar="PATIENT", help="Id or name.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON: an object a line for rows, one object for everything else."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
When = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"],
        help="A time, UTC unless it says otherwise; now by default.",
    ),
]

results = Console()
messages = Console(stderr=True)


def say(line: str) -> None:
    """Print a line of progress; notices of the server about objects that exist already are dropped."""
    if not line.startswith("NOTICE") or "skipping" not in line:
        messages.print(f"[dim]{escape(line)}[/dim]", highlight=False, soft_wrap=True)


def complain(error: RetrocareError, about: str = "") -> None:
    """Print an error and its hint."""
    where = f"{about}: " if about else ""
    messages.print(f"[red]error[/red] {escape(where + str(error))} ({error.code})", highlight=False, soft_wrap=True)
    if error.hint:
        messages.print(f"      {escape(error.hint)}", highlight=False, soft_wrap=True)


def confirm(question: str, goes: Sequence[str], yes: bool) -> None:
    """Say what a command destroys, and ask. Raises: BadRequest unless the answer is yes."""
    for line in goes:
        say(line)
    if not yes and not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        raise BadRequest("Nothing was changed", "Run it again with --yes.", "not_confirmed")


def print_json(value: object) -> None:
    print(json.dumps(value, default=str))


def print_json_line(value: object) -> None:
    """Print one JSON object at once, so that a reader need not wait for the others."""
    print(json.dumps(value, default=str), flush=True)


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table, or each as a block where the terminal is too narrow; an id is never folded."""
    if not rows:
        return say("Nothing to show.")
    names = list(columns or rows[0])
    cells = [[cell(row.get(name), name) for name in names] for row in rows]
    widths = [max(cell_len(text) for text in column) for column in zip(names, *cells, strict=True)]
    if results.is_terminal and sum(widths) + 2 * (len(widths) - 1) > results.width:
        label = max(map(len, names))
        for number, texts in enumerate(cells):
            if number:
                results.print()
            for name, text in zip(names, texts, strict=True):
                if text:
                    put(f"[bold]{name.ljust(label)}[/bold]  {escape(text)}")
        return None
    put(f"[bold]{escape(spaced(names, widths))}[/bold]")
    for texts in cells:
        put(escape(spaced(texts, widths)))
    return None


def spaced(texts: Sequence[str], widths: Sequence[int]) -> str:
    padded = [text + " " * (width - cell_len(text)) for text, width in zip(texts, widths, strict=True)]
    return "  ".join(padded).rstrip()


def put(markup: str) -> None:
    """Print one line of a result without wrapping it."""
    results.print(markup, soft_wrap=True, highlight=False)


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
        case dict():
            return json.dumps(value, default=str) if value else ""
    return str(value)


@contextmanager
def reported() -> Iterator[None]:
    """End the command with exit status 1 and a message for an error of ours, or a full disk."""
    try:
        yield
    except RetrocareError as error:
        complain(error)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno != errno.ENOSPC and "No space left" not in str(error):  # shutil puts it into words
            raise
        complain(Unavailable(*NO_SPACE, "no_space"))
        raise typer.Exit(1) from None


@contextmanager
def opened() -> Iterator[Database]:
    with reported(), connected(read_settings(), say) as database:
        yield database


@contextmanager
def naming(**values: object) -> Iterator[None]:
    """Put the given value (constraint=value) into the message when that constraint refuses it."""
    try:
        yield
    except Unprocessable as error:
        if error.code in values and error.code in SENTENCES:
            raise Unprocessable(*constraint_message(error.code, repr(values[error.code])), error.code) from None
        raise


def find(database: Database, patient: str) -> UUID:
    """Return the id of the patient with this id or name."""
    found = [row for row in database.patient_list() if patient in (str(row["id"]), row["name"])]
    if len(found) == 1:
        return UUID(str(found[0]["id"]))
    if found:
        ids = ", ".join(str(row["id"]) for row in found)
        raise NotFound(f"Several patients are called {patient!r}", f"Say which by the id: {ids}.", "ambiguous_patient")
    raise NotFound(f"No patient is called {patient!r}", "`retrocare patient list` shows their ids.", "unknown_patient")


def moment(given: datetime | None) -> datetime:
    at = given or datetime.now(UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def read_settings_or_exit() -> Settings:
    with reported():
        return read_settings()


def show(rows: Iterable[Row], as_json: bool, columns: Sequence[str] | None = None) -> None:
    """Print rows, as a table or as a JSON object a line."""
    if not as_json:
        return print_rows(list(rows), columns)
    for row in rows:
        print_json_line(row)
    return None
