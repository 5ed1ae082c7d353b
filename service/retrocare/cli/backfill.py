"""The command ``retrocare backfill``: it shows how far the work is, and says what comes next."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retrocare.checks.backfill import Backfill
from retrocare.checks.service import opened_service
from retrocare.cli.console import Json, messages, print_json, print_rows, reported, say
from retrocare.database.client import Row
from retrocare.errors import Conflict, DatabaseUnavailable
from retrocare.settings import Settings, read_settings

LINE_SECONDS = 60.0  # between two lines where there is no terminal


def backfill(
    encoder: Annotated[
        str | None,
        typer.Option(help="An id, such as ge2e-v2, or a family: its active version. Default: RETROCARE_ENCODER."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Embed every recording that is kept, not only what baselines need.")
    ] = False,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it the active encoder when every baseline is rebuilt.")
    ] = False,
    accept_unrecoverable: Annotated[
        bool,
        typer.Option(
            "--accept-unrecoverable",
            help="Activate it even where no recording of a patient is left: the next healthy call enrols.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed kept recordings with a new encoder or after an import. Ctrl-C stops it; run it again to go on."""
    with reported():
        settings = read_settings().model_copy(update={"encoder": encoder} if encoder else {})
        found, is_done = run(
            settings, is_history=history, activates=activate, accepts_unrecoverable=accept_unrecoverable
        )
    lost = found.pop("unrecoverable_patients")
    if as_json:
        print_json({**found, "unrecoverable_patients": lost})
    else:
        print_rows([found])
        if lost:
            say("Of these patients no recording is left that could be embedded:")
            print_rows(lost)
    if not is_done:
        sys.exit(1)


def run(settings: Settings, *, is_history: bool, activates: bool, accepts_unrecoverable: bool) -> tuple[Row, bool]:
    """Run a backfill; return its status, and whether nothing remains to be done.

    Raises: ConfigurationError, Unavailable.
    """
    with opened_service(settings, say) as service, shown() as on_progress:
        work = Backfill(service, is_history, on_progress, on_away=tell_wait)
        refusal: Conflict | None = None
        taken_over: int | None = None
        try:
            with work.working():
                if activates:
                    taken_over = work.activate(accepts_unrecoverable)
                else:
                    work.finish()
        except KeyboardInterrupt:
            say("Stopped; what was in hand is given back. The same command goes on from here.")
        except Conflict as refused:
            refusal = refused
        found = work.database.backfill_status(work.encoder)
        lost = [] if found["is_active"] else work.database.unrecoverable_baselines(work.encoder)
    remaining = found["waiting"] + found["outdated"] + found["unrecoverable"]
    advise(found, refusal, taken_over)
    return found | {"unrecoverable_patients": lost}, not (remaining or refusal)


def advise(found: Row, refusal: Conflict | None, taken_over: int | None) -> None:
    """Say what comes next."""
    if refusal:
        say(f"Not activated: {refusal}. {refusal.hint}")
    elif taken_over is not None:
        say(f"{found['encoder']} is active, and took {taken_over} waiting calls over. Restart each service with it.")
    elif not found["is_active"] and not found["waiting"] + found["outdated"]:
        accepting = " --accept-unrecoverable" if found["unrecoverable"] else ""
        command = f"retrocare backfill --encoder {found['encoder']} --activate{accepting}"
        say(f"`{command}` makes {found['encoder']} the active encoder.")


def tell_wait(away: DatabaseUnavailable, wait: float) -> None:
    say(f"{away}; the next try is in {wait:.0f} s.")


class Meter:
    """Derive progress, speed and the time left from the number of recordings that wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.begun_at = clock, clock()
        self.total = self.waiting = 0

    @property
    def done(self) -> int:
        return self.total - self.waiting

    def note(self, waiting: int) -> None:
        self.total += max(0, waiting - self.waiting)  # what came meanwhile
        self.waiting = waiting

    def __str__(self) -> str:
        seconds = self.clock() - self.begun_at
        if not self.done or seconds <= 0:
            return f"{self.waiting} recordings wait"
        left = timedelta(seconds=round(self.waiting * seconds / self.done))
        speed = f"{60 * self.done / seconds:.1f} a minute"
        return f"{self.done} of {self.total} recordings are done, {speed}; about {left} left"


@contextmanager
def shown() -> Iterator[Callable[[int], None]]:
    """Show how far it is: a bar on a terminal, elsewhere a line now and then."""
    meter = Meter()
    if not messages.is_terminal:
        told_at = float("-inf")

        def tell(waiting: int) -> None:
            nonlocal told_at
            meter.note(waiting)
            if time.monotonic() - told_at >= LINE_SECONDS:
                told_at = time.monotonic()
                say(str(meter))

        yield tell
        return
    columns = (TextColumn("Embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, speed_estimate_period=600) as progress:
        task = progress.add_task("", total=None)

        def show(waiting: int) -> None:
            meter.note(waiting)
            progress.update(task, completed=meter.done, total=meter.total)

        yield show
