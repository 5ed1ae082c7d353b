"""One check from its lease to its end, and what an error on the way does to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fixtures.numbers import Numbers, read_number
from fixtures.records import ENCODER, NOON, Records
from fixtures.running import settings_for
from retrocare.checks.budget import RequestBudget
from retrocare.checks.inference import Inference
from retrocare.checks.pipeline import run_check
from retrocare.database.client import Claim, Database
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
