"""Opening the database that the settings name; the embedded one is started and migrated first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

from retrocare.database.client import CONNECT_SECONDS, Database
from retrocare.database.embedded import EmbeddedServer, embedded, set_aside
from retrocare.database.errors import translated
from retrocare.database.migrations import MigrationFailed, migrate
from retrocare.database.releases import check_release
from retrocare.observability import Say, silently
from retrocare.settings import Settings


@contextmanager
def connected(settings: Settings, say: Say = silently) -> Iterator[Database]:
    """Open the database that the settings name; the embedded one is started, migrated, and stopped when unused.

    Raises: Unavailable, also where the releases do not fit; ConfigurationError.
    """
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        named = conninfo_to_dict(url)
        where = " on ".join(str(named[part]) for part in ("dbname", "host") if named.get(part))
        say(f"The database is {where or 'that of DATABASE_URL'}.")
        with _pooled(url, settings) as pool:
            yield _checked(Database(pool, url))
        return
    with migrated(settings, say) as (server, _), _pooled(server.service_url(), settings) as pool:
        yield _checked(Database(pool, server.service_url(), server.owner_url()))


@contextmanager
def migrated(settings: Settings, say: Say = silently) -> Iterator[tuple[EmbeddedServer, list[str]]]:
    """Start the embedded database and bring it up to date; yield it, and the migrations that were applied to it.

    Raises: Unavailable, ConfigurationError.
    """
    say(f"The database is the embedded one in {settings.data_dir.expanduser().resolve()}.")
    with embedded(settings.data_dir, say=say) as server:
        try:
            applied = migrate(server.owner_url(), say)
        except MigrationFailed as failure:
            if failure.code not in ("made_by_0_1", "baseline_changed"):
                raise
            # These data cannot be upgraded. They are kept, and this release starts with an empty database.
            kept = set_aside(server)
            say(f"This database cannot be upgraded: {failure}")
            say(f"It is kept as {kept}, and an empty one takes its place.")
            applied = migrate(server.owner_url(), say)
        yield server, applied


def _checked(database: Database) -> Database:
    check_release(database.release())
    return database


@contextmanager
def _pooled(url: str, settings: Settings) -> Iterator[ConnectionPool[psycopg.Connection[DictRow]]]:
    # No prepared statements: a pooler in transaction mode uses another session for each transaction.
    arguments = {
        "autocommit": True,
        "prepare_threshold": None,
        "row_factory": dict_row,
        "application_name": "retrocare",
    }
    pool = ConnectionPool[psycopg.Connection[DictRow]](
        url,
        kwargs=arguments,
        min_size=0,
        max_size=settings.database_connections,
        open=False,
        timeout=CONNECT_SECONDS,
        check=ConnectionPool.check_connection,
    )
    with translated(), psycopg.connect(url, connect_timeout=int(CONNECT_SECONDS)):
        pass  # fail at once, and with a clear error
    with pool:
        yield pool
