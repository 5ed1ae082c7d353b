"""The order of the steps from a leased check to its end; nothing else knows it.

Fetch the recording, wait for the inference thread, make the voiceprint, hand it to the SQL function that judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from retrocare.audio.decode import Channel
from retrocare.audio.speech import RecordingLimits
from retrocare.audio.stereo import Intervals
from retrocare.checks.budget import RequestBudget
from retrocare.checks.inference import Inference
from retrocare.checks.retry import until_answered
from retrocare.checks.voiceprint import Voiceprint, VoiceprintFactory, make_voiceprint
from retrocare.database.client import Claim, Database
from retrocare.errors import CheckEnd, NotAssessable, RetrocareError
from retrocare.observability import FAILURES, OUTCOMES, Phases, event, log

T = TypeVar("T")


def fetch_voiceprint(
    read: Callable[[], bytes],
    channel: Channel | None,
    limits: RecordingLimits,
    inference: Inference,
    budget: RequestBudget,
    phases: Phases,
    factory: VoiceprintFactory = make_voiceprint,
    intervals: Intervals = (),
) -> Voiceprint | NotAssessable:
    """Read a recording and make its voiceprint in the inference thread, within the budget. Raises: RetrocareError."""
    with phases("fetch"):
        recording = read()
    budget.check()

    def job() -> Voiceprint | NotAssessable:
        budget.check()
        return factory(recording, channel, limits, inference.encoder, intervals)

    with budget.reserve(recording), phases("voiceprint"):
        return inference.run(job, budget.remaining())


def run_check(
    claim: Claim,
    read: Callable[[], bytes],
    inference: Inference,
    database: Database,
    budget: RequestBudget,
    factory: VoiceprintFactory = make_voiceprint,
) -> tuple[dict[str, Any], Phases]:
    """Bring a leased check to its end; return the row of voice.check_result, and how long each phase took.

    Raises: whatever kept the recording from being judged, after the check was ended as the error's ``ends_check`` says;
    the error carries the check's row as its ``result`` where the failure was recorded with the check.
    """
    phases = Phases(claim.call_log_id)
    try:
        made = fetch_voiceprint(
            read, claim.channel, claim.limits, inference, budget, phases, factory, claim.speech_intervals
        )
        with phases("complete"):
            if isinstance(made, NotAssessable):
                row = _retried(lambda: database.abstain_check(claim, made), budget)
            else:
                row = _retried(lambda: database.complete_check(claim, **made.stored), budget)
    except RetrocareError as failure:
        FAILURES.labels(failure.code).inc()
        _end(claim, database, failure, budget)
        raise
    except Exception as failure:  # whatever broke, the check must say so and be tried again
        FAILURES.labels("internal_error").inc()
        log.exception("failed", extra={"fields": {"call_log_id": str(claim.call_log_id)}})
        kind = type(failure).__name__
        row = _retried(lambda: database.fail_check(claim, "internal_error", kind, False), budget)
        _report(claim, row, "internal_error")
        raise
    except BaseException:  # Ctrl-C or SIGTERM
        give_back(claim, database)
        raise
    _report(claim, row)
    return row, phases


def give_back(claim: Claim, database: Database) -> None:
    """Give back a check whose work was cut off, if that can be done; an upload, which nobody else has, fails."""
    with suppress(RetrocareError):
        _ = database.release_check(claim) or database.fail_check(claim, "interrupted", "interrupted", False)


def _end(claim: Claim, database: Database, failure: RetrocareError, budget: RequestBudget) -> None:
    """End the check as the error says; an upload cannot be released, since nobody else has its recording."""
    if failure.ends_check is CheckEnd.LEASED:
        return
    if failure.ends_check is CheckEnd.RELEASED and _retried(lambda: database.release_check(claim), budget):
        event("released", claim.call_log_id, code=failure.code)
        return
    code, message = failure.code, str(failure)
    row = _retried(lambda: database.fail_check(claim, code, message, failure.is_permanent), budget)
    failure.result = row
    _report(claim, row, code)


def _retried(end: Callable[[], T], budget: RequestBudget) -> T:
    """Repeat until the database answers: with the lease's token, completing twice is the same as completing once."""
    return until_answered(end, seconds=budget.database_seconds, first=0.25)


def _report(claim: Claim, row: dict[str, Any], code: str | None = None) -> None:
    if row["state"] not in ("queued", "leased"):
        OUTCOMES.labels(row["state"], row["reason"] or "").inc()
    fields = {"state": row["state"], "reason": row["reason"], "code": code}
    event("check_ended", claim.call_log_id, **{name: value for name, value in fields.items() if value})
