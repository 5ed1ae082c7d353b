"""What PostgreSQL refuses, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolTimeout

from retrocare_voice.errors import BadRequest, Conflict, NotFound, RetrocareError, Unavailable, Unprocessable

# The errors that our SQL functions raise, by SQLSTATE; the first migration lists them.
ERRORS: dict[str, tuple[type[RetrocareError], str]] = {
    "RV001": (Conflict, "lease_lost"),
    "RV002": (NotFound, "unknown_patient"),
    "RV003": (NotFound, "unknown_call"),
    "RV004": (Unprocessable, "unknown_encoder"),
    "RV005": (Unprocessable, "not_comparable"),
    "RV006": (Conflict, "call_of_another_patient"),
    "RV007": (Conflict, "baselines_missing"),
    "RV008": (BadRequest, "impossible_time"),
    "RV009": (Unprocessable, "idempotency_key_reused"),
}
NOT_MIGRATED = ("3F000", "42883", "42P01", "42501", "28000")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what PostgreSQL says into errors of ours; unknown messages, which may quote values, stay inside."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("The database cannot be reached", "Try again later.", "database_unavailable") from error
    except psycopg.Error as error:
        known = ERRORS.get(error.sqlstate or "")
        if known:
            kind, code = known
            raise kind(error.diag.message_primary or code, error.diag.message_hint or "", code) from error
        if isinstance(error, psycopg.IntegrityError):
            name = error.diag.constraint_name or "integrity"
            raise Unprocessable(f"Refused: {name.replace('_', ' ')}", code=name) from error
        if error.sqlstate in NOT_MIGRATED:
            hint = "Run `retrocare migrate` with the owner's login, and log in as retrocare_service."
            raise Unavailable("The database lacks what this service calls", hint, "not_migrated") from error
        if isinstance(error, psycopg.DataError):
            raise BadRequest("A value is not of the kind that the database takes", code="bad_value") from error
        if isinstance(error, psycopg.OperationalError):
            hint = "Is PostgreSQL running, and DATABASE_URL right?"
            told = "The database cannot be reached, or could not finish in time"
            raise Unavailable(told, hint, "database_unavailable") from error
        raise RetrocareError(f"The database refused the call ({error.sqlstate})", code="database_error") from error
