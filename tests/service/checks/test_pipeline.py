"""One check from its lease to its end, and what an error on the way does to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import pytest

from fixtures.numbers import Numbers, read_number
from fixtures.records import ENCODER, NOON, Records
from fixtures.running import settings_for
from retrocare.checks.budget import RequestBudget
from retrocare.checks.inference import Inference
from retrocare.checks.pipeline import run_check
from retrocare.checks.service import Service
from retrocare.database.client import Claim, Database, Row
from retrocare.database.connection import connected
from retrocare.errors import (
    BadRequest,
    Cancelled,
    DatabaseUnavailable,
    DeadlineExceeded,
    FetchFailed,
    LeaseLost,
    RetrocareError,
    ThreadEnded,
    TooBusy,
    Unavailable,
)
from retrocare.recordings.fetch import Recording
from retrocare.settings import Settings

URL = "https://recordings.example.org/1.wav"


def run(records: Records, source: str, raised: RetrocareError) -> dict[str, object]:
    """Run a leased check whose recording raises; return how the check stands afterwards."""

    def read() -> bytes:
        raise raised

    inference = Inference(Numbers())
    try:
        with connected(settings_for(records.database)) as database:
            claim = leased(database, records, source)
            with pytest.raises(type(raised)):
                run_check(claim, read, inference, database, RequestBudget(), read_number)
    finally:
        inference.stop()
    return records.row("select state, attempts, error_code from care.check_list(null, null, 1)")


def leased(database: Database, records: Records, source: str) -> Claim:
    if source == "provider":
        records.call_log(records.patient(), NOON, source, URL)
        [claim] = database.claim_checks(ENCODER, "test", 1, 60)
        return claim
    return database.open_recording(
        encoder=ENCODER, worker="test", lease_seconds=60, patient_id=records.patient(), source=source, occurred_at=NOON
    )


@pytest.mark.parametrize(
    ("raised", "state", "attempts"),
    [
        (lambda: Cancelled("gone"), "queued", 0),
        (lambda: DeadlineExceeded("late"), "queued", 0),
        (lambda: TooBusy("full"), "queued", 0),
        (lambda: LeaseLost("lost"), "leased", 1),
        (lambda: DatabaseUnavailable("away"), "leased", 1),
        (lambda: ThreadEnded("The inference thread", code="inference_ended"), "leased", 1),
        (lambda: Unavailable("full", code="no_space"), "queued", 1),
        (lambda: FetchFailed("no answer"), "queued", 1),
        (lambda: FetchFailed("private", refusal="address"), "dead", 1),
        (lambda: BadRequest("unreadable"), "dead", 1),
    ],
)
def test_an_error_releases_a_check_or_fails_it_or_leaves_it_to_its_lease(
    records: Records, raised: Callable[[], RetrocareError], state: str, attempts: int
) -> None:
    stands = run(records, "provider", raised())
    assert (stands["state"], stands["attempts"]) == (state, attempts)


@pytest.mark.parametrize("raised", [Cancelled, DeadlineExceeded, TooBusy])
def test_an_upload_that_cannot_be_released_fails_since_nobody_else_has_its_recording(
    records: Records, raised: type[RetrocareError]
) -> None:
    stands = run(records, "upload", raised("no answer is possible"))
    assert (stands["state"], stands["error_code"]) == ("dead", raised.code)


class OnceAway(Database):
    """A database that does not answer the first time that a check is to be failed or released."""

    def __init__(self, database: Database) -> None:
        super().__init__(database._pool, database.service_url)
        self.has_been_away = False

    def _rows(self, function: str, /, **arguments: object) -> list[Row]:
        if function in ("care.fail_check", "care.release_check") and not self.has_been_away:
            self.has_been_away = True
            raise DatabaseUnavailable("away for a moment")
        return super()._rows(function, **arguments)


@pytest.mark.parametrize(
    ("raised", "state"),
    [
        (lambda: BadRequest("unreadable"), "dead"),
        (lambda: ValueError("a bug"), "queued"),
        (lambda: TooBusy("full"), "queued"),
    ],
)
def test_a_failure_is_recorded_though_the_database_is_away_for_a_moment(
    records: Records, raised: Callable[[], Exception], state: str
) -> None:
    def read() -> bytes:
        raise raised()

    inference = Inference(Numbers())
    try:
        with connected(settings_for(records.database)) as database:
            claim = leased(database, records, "provider")
            with pytest.raises(type(raised())):
                run_check(claim, read, inference, OnceAway(database), RequestBudget(), read_number)
    finally:
        inference.stop()
    assert records.one("select state from care.checks") == state


def test_the_checks_of_requests_that_are_cut_off_are_given_back(records: Records) -> None:
    begun, release = threading.Event(), threading.Event()

    def wait() -> bytes:
        begun.set()
        release.wait(30)
        raise FetchFailed("cut off")

    inference = Inference(Numbers())
    with connected(settings_for(records.database)) as database:
        service = Service(settings_for(records.database), database, inference, "")
        for reference, state in ((URL, "queued"), (None, "dead")):
            recording = Waiting(reference, wait)
            patient_id = records.patient()
            request = threading.Thread(target=judge_quietly, args=(service, recording, patient_id))
            request.start()
            assert begun.wait(30)
            service.release_open_checks()
            assert records.one("select state from care.checks where patient_id = %s", patient_id) == state
            release.set()
            request.join(30)
            begun.clear()
            release.clear()
    inference.stop()


@dataclass(frozen=True)
class Waiting(Recording):
    """A recording that does not come before it is released."""

    wait: Callable[[], bytes] = bytes

    def __init__(self, reference: str | None, wait: Callable[[], bytes]) -> None:
        super().__init__(reference)
        object.__setattr__(self, "wait", wait)

    def read(self, settings: Settings) -> bytes:
        return self.wait()


def judge_quietly(service: Service, recording: Recording, patient_id: UUID) -> None:
    with suppress(RetrocareError):
        service.judge(recording, patient_id, source="upload", occurred_at=NOON)
