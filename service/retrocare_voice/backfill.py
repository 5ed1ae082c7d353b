"""Bulk: what is kept is embedded again, by a new encoder or after an import; then the new encoder becomes active.

The work is on the list of checks, after all other work: any number of processes on any number of hosts share it, and
one that is stopped loses nothing. What is to be done, and when it is done, SQL decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from retrocare_voice.console import messages, say
from retrocare_voice.database import Row
from retrocare_voice.errors import Conflict, Unavailable
from retrocare_voice.pipeline import Make, backoff, voiceprint
from retrocare_voice.service import Service, opened_service
from retrocare_voice.settings import Settings
from retrocare_voice.worker import Worker

T = TypeVar("T")
Tell = Callable[[int], None]  # hears how many recordings wait

LOOK_SECONDS = 1.0
LINE_SECONDS = 60.0  # between two lines where there is no terminal
ROWS = 10_000  # of one transaction
ROUNDS = 3  # the first does it, the others what calls have changed meanwhile
TRIES = 20  # to take over; who needs more must look what is in the way
HOLD_SECONDS = 20.0  # longer than the last recordings take


class Backfill:
    """Work until nothing is left that this encoder could embed, and every baseline that can be rebuilt is."""

    def __init__(self, service: Service, is_history: bool, tell: Tell, make: Make = voiceprint) -> None:
        self.service, self.is_history, self.tell, self.make = service, is_history, tell, make
        self.database, self.encoder = service.database, service.encoder

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work on the list meanwhile; at the end, leases are given back."""
        service = self.service
        worker = service.worker = Worker(service.settings, self.database, service.inference, self.make)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
            service.worker = None

    def finish(self) -> None:
        """Do what can be done now, and what was added meanwhile. Raises: Unavailable where a thread has ended."""
        for _ in range(ROUNDS):
            if not self.go_round():
                return

    def go_round(self) -> bool:
        """Queue what is missing, wait until it has its end, rebuild; return whether there was anything to do."""
        opened = self._all(lambda: self.database.open_backfill(self.encoder, self.is_history, ROWS))
        if self.service.worker:
            self.service.worker.wake()
        was_waiting = False
        for wait in backoff(first=0.1, longest=LOOK_SECONDS):
            if not (waiting := _patiently(lambda: self.database.waiting_backfill(self.encoder))):
                break
            was_waiting = True
            self.tell(waiting)
            self.service.check_threads()
            time.sleep(wait)
        rebuilt = self._all(lambda: self.database.rebuild_baselines(self.encoder, ROWS // 10))
        return opened > 0 or rebuilt > 0 or was_waiting

    def activate(self, accepts_unrecoverable: bool) -> int:
        """Make this encoder the active one and return how many waiting calls it took over.

        Calls are judged meanwhile, and change the baselines that are to be followed: the last of them are kept waiting
        for the seconds that it takes.
        Raises: Conflict where patients would be left behind, or nothing can be done about what is missing.
        """
        for _ in range(TRIES):
            self.go_round()
            try:
                return _patiently(lambda: self.database.activate_encoder(self.encoder, accepts_unrecoverable))
            except Conflict as refused:
                refusal = refused
            if not self.database.backfill_status(self.encoder)["outdated"]:
                break
            self.database.hold_calls(HOLD_SECONDS)
        raise refusal

    def _all(self, work: Callable[[], int]) -> int:
        """Do a piece of work until none is left; return how much it was."""
        done = 0
        while some := _patiently(work):
            done += some
        return done


def run(settings: Settings, *, is_history: bool, activates: bool, accepts_unrecoverable: bool) -> tuple[Row, bool]:
    """Do it from beginning to end; return what stands now, and whether nothing remains.

    Raises: ConfigurationError, Unavailable.
    """
    with opened_service(settings, say) as service, shown() as tell:
        backfill = Backfill(service, is_history, tell)
        refusal: Conflict | None = None
        taken_over: int | None = None
        try:
            with backfill.working():
                if activates:
                    taken_over = backfill.activate(accepts_unrecoverable)
                else:
                    backfill.finish()
        except KeyboardInterrupt:
            say("Stopped; what was in hand is given back. The same command goes on from here.")
        except Conflict as refused:
            refusal = refused
        found = backfill.database.backfill_status(backfill.encoder)
        lost = [] if found["is_active"] else backfill.database.left_behind(backfill.encoder)
    remaining = found["waiting"] + found["outdated"] + found["unrecoverable"]
    _advise(found, refusal, taken_over)
    return found | {"left_behind_patients": lost}, not (remaining or refusal)


def _advise(found: Row, refusal: Conflict | None, taken_over: int | None) -> None:
    """Say what comes next."""
    if refusal:
        say(f"Not activated: {refusal}. {refusal.hint}")
    elif taken_over is not None:
        say(f"{found['encoder']} is active, and took {taken_over} waiting calls over. Restart each service with it.")
    elif not found["is_active"] and not found["waiting"] + found["outdated"]:
        behind = " --leave-behind" if found["unrecoverable"] else ""
        say(f"`retrocare backfill --activate{behind}` makes {found['encoder']} the active encoder.")


def _patiently(ask: Callable[[], T]) -> T:
    """Ask until the database answers: work that takes days sees it restarted."""
    for wait in backoff(first=1.0):
        try:
            return ask()
        except Unavailable as away:
            if away.code != "database_unavailable":
                raise
            say(f"{away}; the next try is in {wait:.0f} s.")
            time.sleep(wait)
    raise AssertionError("backoff never ends")


class Meter:
    """Tell from how many recordings wait how many are done, how fast, and how long the others will take."""

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
def shown() -> Iterator[Tell]:
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
