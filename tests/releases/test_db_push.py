"""`supabase db push`: it applies our migrations as `retrocare migrate` does, also beside a project's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fixtures.databases import Database
from fixtures.supabase_cli import supabase
from releases.catalog import catalog, differences
from retrocare.database.migrations import MIGRATIONS, migrate, migration_files

THEIRS = {
    "20200101000000_begin.sql": "create table public.theirs (id integer);",
    "20301231000000_more.sql": "alter table public.theirs add column more text;",
}
HISTORY = "select version, name from supabase_migrations.schema_migrations order by version"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as `supabase init` leaves it, with our migrations."""
    shutil.copytree(MIGRATIONS, tmp_path / "supabase" / "migrations")
    shutil.copy(MIGRATIONS.resolve().parent / "config.toml", tmp_path / "supabase" / "config.toml")
    return tmp_path


def push(database: Database, project: Path, *words: str) -> None:
    supabase(database, project, "db", "push", "--yes", *words, owner=True)


def history(database: Database) -> list[tuple[str, str]]:
    return [(version, name) for version, name in database.owner.execute(HISTORY).fetchall()]


def ours() -> list[tuple[str, str]]:
    return [(file.version, file.name) for file in migration_files()]


def theirs() -> list[tuple[str, str]]:
    names = [name.removesuffix(".sql").partition("_") for name in THEIRS]
    return [(version, words) for version, _, words in names]


def test_it_makes_of_an_empty_project_what_migrate_makes(
    empty_database: Database, database: Database, project: Path
) -> None:
    push(empty_database, project)
    assert history(empty_database) == ours()
    assert differences(catalog(empty_database.owner), catalog(database.owner)) == []
    assert migrate(empty_database.owner_url) == []


def test_beside_a_projects_own_migrations_include_all_adds_ours(
    empty_database: Database, database: Database, project: Path
) -> None:
    """The project has been there for long: it has migrations that are newer than ours."""
    folder = project / "supabase" / "migrations"
    for path in folder.iterdir():
        path.unlink()
    for name, text in THEIRS.items():
        (folder / name).write_text(text)
    push(empty_database, project)
    assert history(empty_database) == theirs()
    shutil.copytree(MIGRATIONS, folder, dirs_exist_ok=True)
    push(empty_database, project, "--include-all")
    assert history(empty_database) == sorted(ours() + theirs())
    assert migrate(empty_database.owner_url) == []
    empty_database.owner.execute("drop table public.theirs")
    assert differences(catalog(empty_database.owner), catalog(database.owner)) == []


def test_what_migrate_applied_does_not_keep_a_project_from_pushing_its_own(
    empty_database: Database, project: Path
) -> None:
    """Our files lie in the project's folder, or the CLI would miss what the database records."""
    assert len(migrate(empty_database.owner_url)) == len(ours())
    for name, text in THEIRS.items():
        (project / "supabase" / "migrations" / name).write_text(text)
    push(empty_database, project, "--include-all")
    assert history(empty_database) == sorted(ours() + theirs())
    assert empty_database.owner.execute("select more from public.theirs").fetchall() == []
    assert migrate(empty_database.owner_url) == []
