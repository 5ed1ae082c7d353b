"""Apply our migrations to any PostgreSQL, and record them as the Supabase CLI does.

Ours are recognised by their names, ``retrocare_`` and a release; other migrations of the same project are ignored.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from retrocare.errors import ConfigurationError, RetrocareError, Unavailable
from retrocare.observability import Say, silently

MIGRATIONS = Path(__file__).with_name("migration_files")
FILE = re.compile(r"(?P<version>\d{14})_(?P<name>retrocare_(?P<release>\d+_\d+_\d+)(_\w+)?)\.sql")
OURS = re.compile(r"retrocare_\d+_\d+_\d+(_\w+)?")
SCHEMA_OF_0_1 = "voice"
LOCK = 7_243_202_611  # an arbitrary number for the advisory lock of whoever migrates
# A statement that waits for a table's lock blocks everybody behind it, so it gives up soon and tries again.
LOCK_SECONDS = 4
LOCK_ATTEMPTS = 30
# Every writer locks these first, in this order, so that it waits here and never inside a migration.
LOCKED_FIRST = ("care.models", "public.patients")

HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text not null primary key, statements text[], name text
);
"""
RECORD = "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)"


class MigrationFailed(RetrocareError):
    code, is_permanent = "migration_failed", True


@dataclass(frozen=True)
class MigrationFile:
    """One file of ours; the Supabase CLI records its version and its name."""

    path: Path
    version: str
    name: str

    @property
    def step(self) -> str:
        return self.path.stem

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


def migration_files(folder: Path = MIGRATIONS) -> list[MigrationFile]:
    """Return our files in a folder, in the order in which they are applied. Raises: ConfigurationError."""
    named = [(path, FILE.fullmatch(path.name)) for path in sorted(folder.glob("*.sql"))]
    files = [MigrationFile(path, match["version"], match["name"]) for path, match in named if match]
    if not files:
        raise ConfigurationError(f"There are no migrations in {folder}.", "Install the package anew.")
    return files


def migrate(
    url: str,
    say: Say = silently,
    folder: Path = MIGRATIONS,
    lock_seconds: float = LOCK_SECONDS,
) -> list[str]:
    """Apply the files that are not applied yet, in order, each in a transaction of its own; return their names.

    ``url`` is the owner's login. ``say`` gets each name before it is applied, and each notice of the server.
    Raises: MigrationFailed, with the file's line and nothing of that file applied; Unavailable; ConfigurationError.
    """
    files = migration_files(folder)
    try:
        connection = psycopg.connect(url, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise Unavailable(f"The database cannot be reached: {error}".strip(), "Is DATABASE_URL right?") from None

    def tell(notice: psycopg.errors.Diagnostic) -> None:
        say(f"{notice.severity}: {notice.message_primary}")

    with connection:
        connection.add_notice_handler(tell)
        _check_history(connection, files)
        return [file.step for file in files if _apply(connection, file, say, lock_seconds)]


def _apply(connection: psycopg.Connection, file: MigrationFile, say: Say, lock_seconds: float) -> bool:
    """Apply a file unless it was applied before; try again where others hold locks that it needs."""
    for attempts_left in reversed(range(LOCK_ATTEMPTS)):
        try:
            with connection.transaction():
                connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
                if file.name in _recorded(connection):
                    return False
                say(file.step)
                connection.execute(f"set local lock_timeout = '{lock_seconds}s'".encode())
                for table in LOCKED_FIRST:
                    if connection.execute("select to_regclass(%s)", [table]).fetchone() != (None,):
                        connection.execute(f"lock table {table} in exclusive mode".encode())
                connection.execute(file.text.encode())
                connection.execute(RECORD, [file.version, [file.text], file.name])
                return True
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if not attempts_left:
                raise _failure(file, error) from error
            say(f"{file.step} waits for others to be done with what it changes; nothing of it was applied yet.")
            time.sleep(lock_seconds / 4)
        except psycopg.Error as error:
            raise _failure(file, error) from error
    raise AssertionError("the last attempt returns or raises")


def _check_history(connection: psycopg.Connection, files: list[MigrationFile]) -> None:
    """Refuse a database from which these files are no way forward."""
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        try:
            if connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone() == (None,):
                connection.execute(HISTORY)
            recorded = _recorded(connection)
        except psycopg.errors.InsufficientPrivilege as error:
            raise MigrationFailed(
                f"This login may not migrate: {error}", "Use the owner's, postgres.", "not_the_owner"
            ) from None
        is_there = connection.execute("select to_regnamespace(%s) is not null", [SCHEMA_OF_0_1]).fetchone() == (True,)
    if not recorded and is_there:
        raise MigrationFailed(
            f"The database holds a schema {SCHEMA_OF_0_1}, and no migration of a release: RetroCare Voice 0.1 made it, "
            "and no way leads from there to this release.",
            "Start with an empty database. To keep what 0.1 holds, stay with 0.1, or export each patient with it.",
            "made_by_0_1",
        )
    unknown = sorted(set(recorded) - {file.name for file in files})
    if unknown:
        raise MigrationFailed(
            f"The database is of a newer release than this one: it records {', '.join(unknown)}.",
            "Update RetroCare Voice to that release; a database never goes back.",
            "database_newer",
        )
    for file in files:
        if (recorded.get(file.name) or file.text) != file.text:
            raise MigrationFailed(
                f"{file.path.name} has changed since it was applied to this database.",
                "It is edited until 1.0.0 is released: start with an empty database, or use what made this one.",
                "baseline_changed",
            )


def _recorded(connection: psycopg.Connection) -> dict[str, str | None]:
    """Return our applied migrations and their texts; None for the text where the Supabase CLI applied it."""
    rows = connection.execute("select name, statements from supabase_migrations.schema_migrations")
    return {
        name: statements[0] if statements and len(statements) == 1 else None
        for name, statements in rows
        if name and OURS.fullmatch(name)
    }


def _failure(file: MigrationFile, error: psycopg.Error) -> MigrationFailed:
    found, line = error.diag, ""
    if found.statement_position:
        line = f", line {file.text.count(chr(10), 0, int(found.statement_position)) + 1}"
    hint = "\n".join(part for part in (found.message_hint, found.context) if part)
    told = f"{file.path.name}{line}: {found.message_primary or error}"
    return MigrationFailed(told, hint or "Nothing of it was applied.")
