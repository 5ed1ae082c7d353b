"""Apply ``supabase/migrations`` to any PostgreSQL, and record them as the Supabase CLI does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import psycopg

from .errors import ConfigurationError, RetrocareError, Unavailable

MIGRATIONS = Path(
    os.environ.get("RETROCARE_MIGRATIONS_DIR") or Path(__file__).resolve().parents[2] / "supabase" / "migrations"
)
LOCK = 7_243_202_611  # an arbitrary number: whoever migrates holds this advisory lock

HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text not null primary key, statements text[], name text
);
"""
RECORD = "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)"


class MigrationFailed(RetrocareError):
    code, is_permanent = "migration_failed", True


def migrate(url: str, on_step: Callable[[str], None] = lambda step: None, folder: Path = MIGRATIONS) -> list[str]:
    """Apply the files that were not yet applied, in order, each in a transaction of its own; return their names.

    ``url`` is the owner's login. ``on_step`` hears each name before it is applied, and each notice of the server.
    Raises: MigrationFailed, with the file's line and nothing of that file applied; Unavailable; ConfigurationError.
    """
    files = {path.name.split("_")[0]: path for path in sorted(folder.glob("*.sql")) if re.match(r"\d+_", path.name)}
    if not files:
        raise ConfigurationError(f"There are no migrations in {folder}.", "RETROCARE_MIGRATIONS_DIR names it.")
    try:
        connection = psycopg.connect(url, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise Unavailable(f"The database cannot be reached: {error}".strip(), "Is DATABASE_URL right?") from None
    applied = []
    with connection:
        _refuse_unknown(connection, files)
        connection.add_notice_handler(lambda notice: on_step(f"{notice.severity}: {notice.message_primary}"))
        for version, path in files.items():
            text = path.read_text(encoding="utf-8")
            try:
                with connection.transaction():
                    connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
                    recorded = _recorded(connection)
                    if (recorded.get(version) or text) != text:
                        raise _changed(path.name)
                    if version not in recorded:
                        on_step(path.stem)
                        connection.execute(text.encode())
                        connection.execute(RECORD, [version, [text], path.stem.partition("_")[2]])
                        applied.append(path.stem)
            except psycopg.Error as error:
                raise _failure(path.name, text, error) from error
    return applied


def _recorded(connection: psycopg.Connection) -> dict[str, str | None]:
    """Return the applied versions and their texts; None where the Supabase CLI applied it, which keeps statements."""
    rows = connection.execute("select version, statements from supabase_migrations.schema_migrations")
    return {version: statements[0] if statements and len(statements) == 1 else None for version, statements in rows}


def _refuse_unknown(connection: psycopg.Connection, files: dict[str, Path]) -> None:
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
        try:
            if connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone() == (None,):
                connection.execute(HISTORY)
            unknown = sorted(set(_recorded(connection)) - set(files))
        except psycopg.errors.InsufficientPrivilege as error:
            raise MigrationFailed(
                f"This login may not migrate: {error}", "Use the owner's, postgres.", "not_the_owner"
            ) from None
    if unknown:
        raise MigrationFailed(
            f"The database records migrations that are no file here: {', '.join(unknown)}.",
            "Use the files of the release that applied them, or, if they are known to be void, forget them: "
            f"supabase migration repair --status reverted {' '.join(unknown)}",
            "unknown_migration",
        )


def _changed(name: str) -> MigrationFailed:
    return MigrationFailed(
        f"{name} has changed since it was applied to this database.",
        "Until 1.0.0 chapters are edited in place: start with an empty database, or use the release that made it.",
        "chapter_changed",
    )


def _failure(name: str, text: str, error: psycopg.Error) -> MigrationFailed:
    found = error.diag
    line = f", line {text.count(chr(10), 0, int(found.statement_position)) + 1}" if found.statement_position else ""
    hint = "\n".join(part for part in (found.message_hint, found.context) if part)
    return MigrationFailed(f"{name}{line}: {found.message_primary or error}", hint or "Nothing of it was applied.")
