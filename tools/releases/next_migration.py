"""The next migration: drafted from how the schemas differ from the committed migrations, written, and tried."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from releases.baseline import baseline
from releases.catalog import Catalog, catalog, differences
from releases.draft import Draft
from releases.scratch import Empty
from retrocare.database.migrations import migrate, migration_files
from retrocare.database.releases import release_of

HEAD = """\
-- What brings a database to release {release}: drafted by `scripts/release draft`, read and corrected by hand.

"""


class CannotBeDrafted(Exception):
    """Say why no draft was written, and what to do first."""


def catalog_of_schemas(url: str, schemas: Path) -> Catalog:
    """Make what the schemas say in an empty database, and read its catalog."""
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(baseline(schemas).encode())
        return catalog(connection)


def catalog_of_migrations(url: str, migrations: Path) -> Catalog:
    """Apply the migrations to an empty database, and read its catalog."""
    migrate(url, folder=migrations)
    with psycopg.connect(url, autocommit=True) as connection:
        return catalog(connection)


def write_draft(release: str, words: str, schemas: Path, migrations: Path, empty: Empty) -> tuple[Path, list[str]]:
    """Write the draft of a release's migration; return it, and what then still differs from the schemas.

    Raises: CannotBeDrafted.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", release) or not re.fullmatch(r"[a-z0-9_]*", words):
        raise CannotBeDrafted(
            f"{release} {words}".strip() + " is no release such as 1.1.0, with words such as new_limits."
        )
    schemas_url, scratch_url, tried_url = empty(), empty(), empty()
    wanted = catalog_of_schemas(schemas_url, schemas)
    with psycopg.connect(schemas_url) as connection:
        [(said,)] = connection.execute("select version from care.release()").fetchall()
    if said != release:
        raise CannotBeDrafted(f"The schemas say that they are release {said}: write {release} into care.release().")
    newest = migration_files(migrations)[-1]
    if release_of(newest.name) > release_of(release):
        raise CannotBeDrafted(f"{newest.path.name} is of a later release than {release}.")
    if not differences(catalog_of_migrations(scratch_url, migrations), wanted):
        raise CannotBeDrafted("The migrations make what the schemas say: there is nothing to draft.")
    with psycopg.connect(scratch_url, autocommit=True) as scratch:
        text = Draft(scratch, wanted).write()
    version = max(datetime.now(UTC).strftime("%Y%m%d%H%M%S"), str(int(newest.version) + 1))
    name = "_".join([version, "retrocare", release.replace(".", "_"), *([words] if words else [])])
    draft = migrations / f"{name}.sql"
    draft.write_text(HEAD.format(release=release) + text, encoding="utf-8")
    return draft, differences(catalog_of_migrations(tried_url, migrations), wanted)
