"""PostgreSQL's errors, translated into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolTimeout

from retrocare.errors import (
    BadRequest,
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    LeaseLost,
    NotFound,
    RetrocareError,
    Unavailable,
    Unprocessable,
)

# The errors that our SQL functions raise, by SQLSTATE; 10_foundations.sql lists them.
ERRORS: dict[str, tuple[type[RetrocareError], str]] = {
    "RV001": (LeaseLost, "lease_lost"),
    "RV002": (NotFound, "unknown_patient"),
    "RV003": (NotFound, "unknown_call"),
    "RV004": (Unprocessable, "unknown_encoder"),
    "RV005": (Unprocessable, "not_comparable"),
    "RV006": (Conflict, "call_of_another_patient"),
    "RV007": (Conflict, "baselines_missing"),
    "RV008": (BadRequest, "impossible_time"),
    "RV009": (Unprocessable, "idempotency_key_reused"),
    # Those of functions that caregivers call over the Data API, and operators here.
    "PT400": (BadRequest, "bad_request"),
    "PT403": (Forbidden, "forbidden"),
    "PT404": (NotFound, "not_found"),
    "PT409": (Conflict, "conflict"),
}
# Messages and hints for constraints that input may violate; {value} is the value where it is known. The names of all
# other constraints are sentences themselves.
SENTENCES: dict[str, tuple[str, str]] = {
    "a_patients_timezone_is_a_zone": ("No time zone is called {value}", "Such as Europe/Berlin, or UTC."),
    "a_patients_phone_is_a_number": (
        "{value} is no telephone number in international form",
        "Such as +4930123456.",
    ),
    "silence_takes_between_a_day_and_a_year": (
        "A patient counts as silent after 1 to 366 days, not {value}",
        "0 means that the patient is on no schedule.",
    ),
    "a_name_stands_for_one_key_of_an_organisation": (
        "A key that stands is called {value}",
        "Revoke it first, or take another name.",
    ),
    "thresholds_rise": (
        "The thresholds rise from 0 to 1: medium_above, high_above, critical_above",
        "Change those that move together in one command.",
    ),
    "time_windows_lie_within_the_day": (
        "The morning and the evening window lie one after the other within the day",
        "Change morning_start_hour, evening_start_hour and window_hours together.",
    ),
    "a_health_flag_ends_after_it_starts": ("A health flag ends after it starts", ""),
    "consent_was_given_after_1900": ("Consent was given after the year 1900", ""),
    "a_webhook_is_reached_over_https": ("A webhook is reached over https", "Such as https://example.org/hook."),
}
NO_SPACE = ("No space is left on the database's disk", "Make some, then try again. Nothing of this was stored.")
NOT_MIGRATED = ("3F000", "42883", "42P01", "42501", "28000")


def constraint_message(constraint: str, value: object = "that") -> tuple[str, str]:
    """Return the message and the hint for a violated constraint."""
    told, hint = SENTENCES.get(constraint, (f"Refused: {constraint.replace('_', ' ')}", ""))
    return told.format(value=value), hint


@contextmanager
def translated() -> Iterator[None]:
    """Translate PostgreSQL's errors into ours; unknown messages are not passed on, since they may quote values."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable("The database cannot be reached", "Try again later.") from error
    except psycopg.Error as error:
        known = ERRORS.get(error.sqlstate or "")
        if known:
            kind, code = known
            raise kind(error.diag.message_primary or code, error.diag.message_hint or "", code) from error
        if isinstance(error, psycopg.IntegrityError):
            name = error.diag.constraint_name or "integrity"
            raise Unprocessable(*constraint_message(name), name) from error
        if error.sqlstate in NOT_MIGRATED:
            hint = "Run `retrocare migrate` with the owner's login, and log in as retrocare_service."
            raise Unavailable("The database lacks what this service calls", hint, "not_migrated") from error
        if isinstance(error, psycopg.errors.DiskFull):
            raise Unavailable(*NO_SPACE, "no_space") from error
        if isinstance(error, psycopg.DataError):
            raise BadRequest("A value is not of the kind that the database takes", code="bad_value") from error
        if isinstance(error, psycopg.OperationalError):
            hint = "Is PostgreSQL running, and DATABASE_URL right?"
            told = "The database cannot be reached, or could not finish in time"
            raise DatabaseUnavailable(told, hint) from error
        raise RetrocareError(f"The database refused the call ({error.sqlstate})", code="database_error") from error
