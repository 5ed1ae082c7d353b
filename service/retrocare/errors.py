"""Every error that a caller may see, each with a stable code; the subclasses of other modules are listed as well.

    RetrocareError                     code, HTTP status, is_permanent, ends_check
    |- BadRequest                      400  the request cannot be understood
    |- Unauthorized                    401  no key, or not the right one
    |- Forbidden                       403  the key lacks the scope
    |- NotFound                        404  no such patient or call
    |- Conflict                        409  the call is another patient's, baselines are missing under the encoder that
    |  |                                    is to become active
    |  `- LeaseLost                         another worker has taken the check over
    |- TooLarge                        413  more bytes than are accepted
    |- Unprocessable                   422  vectors that cannot be compared
    |- TooBusy                         429  more is in hand than is taken on
    |- FetchFailed                     502  the recording could not be fetched; 403 where it may not be
    |- Unavailable                     503  something that the service needs is not there
    |  |- DatabaseUnavailable               the database does not answer
    |  |- ThreadEnded                       a thread of this process is gone
    |  |- DeadlineExceeded                  the answer would come too late
    |  `- Cancelled                         nobody waits for the answer any more
    |- MigrationFailed (database)           a migration was not applied
    `- ConfigurationError                   a setting is missing or wrong

``NotAssessable`` is no failure but an answer: this recording cannot be judged, and the caregivers may see why.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class CheckEnd(Enum):
    """What becomes of a leased check where an error stops the work on it."""

    FAILED = "the error is recorded with the check, which is tried again or is dead"
    RELEASED = "the check is given back: the error says nothing about its recording"
    LEASED = "nothing can be recorded: the lease runs out, and the check is handed out again"


class RetrocareError(Exception):
    """Carry what was wrong (the message), what to do (the hint) and a code that programs may rely on."""

    code = "internal_error"
    status = 500
    is_permanent = False
    retry_after_seconds: int | None = None
    ends_check = CheckEnd.FAILED

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.result: dict[str, Any] | None = None  # how the check stands that this failure was recorded with
        if code:
            self.code = code


class BadRequest(RetrocareError):
    code, status, is_permanent = "bad_request", 400, True


class Unauthorized(RetrocareError):
    code, status, is_permanent = "unauthorized", 401, True


class Forbidden(RetrocareError):
    code, status, is_permanent = "forbidden", 403, True


class NotFound(RetrocareError):
    code, status, is_permanent = "not_found", 404, True


class Conflict(RetrocareError):
    code, status, is_permanent = "conflict", 409, True


class LeaseLost(Conflict):
    code, ends_check = "lease_lost", CheckEnd.LEASED


class TooLarge(RetrocareError):
    code, status, is_permanent = "too_large", 413, True


class Unprocessable(RetrocareError):
    code, status, is_permanent = "unprocessable", 422, True


class TooBusy(RetrocareError):
    code, status, retry_after_seconds, ends_check = "too_busy", 429, 5, CheckEnd.RELEASED


class FetchFailed(RetrocareError):
    code, status = "recording_unreachable", 502

    def __init__(
        self, message: str, hint: str = "", code: str = "", is_permanent: bool = False, refusal: str = ""
    ) -> None:
        super().__init__(message, hint, code)
        self.is_permanent = is_permanent or bool(refusal)
        self.refusal = refusal
        """Why we do not fetch it, in a word; empty where we tried."""
        if refusal:
            self.code, self.status = "recording_refused", 403


class Unavailable(RetrocareError):
    code, status, retry_after_seconds = "unavailable", 503, 5


class DatabaseUnavailable(Unavailable):
    code, ends_check = "database_unavailable", CheckEnd.LEASED


class ThreadEnded(Unavailable):
    """A thread of this process is gone; a supervisor starts the process anew."""

    ends_check = CheckEnd.LEASED

    def __init__(self, name: str, *, code: str) -> None:
        super().__init__(f"{name} has ended", "The service restarts.", code)


class DeadlineExceeded(Unavailable):
    code, ends_check = "deadline_exceeded", CheckEnd.RELEASED


class Cancelled(Unavailable):
    """Nobody waits for the answer any more: the check is judged later, where its recording is kept."""

    code, ends_check = "caller_gone", CheckEnd.RELEASED


class ConfigurationError(RetrocareError):
    code, is_permanent = "configuration_error", True


class NotAssessable(Exception):
    """Say why a recording cannot be judged; ``reason`` is a value of the SQL enum ``public.check_reason``."""

    def __init__(self, reason: str, **measures: float | int | str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.measures: Mapping[str, float | int | str | None] = measures
