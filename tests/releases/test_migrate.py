"""migrate(): each file once, in order, whole or not at all, whoever else tries at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from fixtures.databases import Database
from releases.catalog import catalog
from retrocare.database.migrations import LOCKED_FIRST, MigrationFailed, migrate, migration_files
from retrocare.errors import ConfigurationError, Unavailable

FIRST = "20270101000000_retrocare_1_0_0"
SECOND = "20270201000000_retrocare_1_1_0_second"
THIRD = "20270301000000_retrocare_1_2_0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, f"{FIRST}.sql", "create table public.first (id int primary key);")
    write(tmp_path, f"{SECOND}.sql", "create table public.second (id int references public.first (id));")
    write(tmp_path, "notes.sql", "this is no migration")
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")


def tables(database: Database) -> set[str]:
    return {name for (name,) in database.owner.execute("select tablename from pg_tables where schemaname = 'public'")}


def test_files_are_applied_in_order_and_recorded_as_the_supabase_cli_does(
    empty_database: Database, folder: Path, postgres_version: int
) -> None:
    steps: list[str] = []
    assert migrate(empty_database.owner_url, steps.append, folder) == [FIRST, SECOND]
    assert steps == [FIRST, SECOND]
    recorded = empty_database.owner.execute("select * from supabase_migrations.schema_migrations order by 1").fetchall()
    text = "create table public.first (id int primary key);"
    assert recorded[0] == ("20270101000000", [text], "retrocare_1_0_0")
    assert (recorded[1][0], recorded[1][2]) == ("20270201000000", "retrocare_1_1_0_second")


def test_what_was_applied_is_not_applied_again(empty_database: Database, folder: Path) -> None:
    migrate(empty_database.owner_url, folder=folder)
    assert migrate(empty_database.owner_url, folder=folder) == []
    write(folder, f"{THIRD}.sql", "create table public.third ();")
    assert migrate(empty_database.owner_url, folder=folder) == [THIRD]


def test_notices_are_passed_on(empty_database: Database, folder: Path) -> None:
    write(folder, f"{THIRD}.sql", "do $$ begin raise notice 'kept %', 2; end $$;")
    steps: list[str] = []
    migrate(empty_database.owner_url, steps.append, folder)
    assert steps[2:] == [THIRD, "NOTICE: kept 2"]


def test_a_failing_file_leaves_nothing_and_is_named_with_its_line(empty_database: Database, folder: Path) -> None:
    write(folder, f"{SECOND}.sql", "create table public.second ();\n\nselect nonsense;\n")
    with pytest.raises(MigrationFailed, match=rf'^{SECOND}.sql, line 3: column "nonsense" does not exist$') as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert failed.value.hint == "Nothing of it was applied."
    assert tables(empty_database) == {"first"}
    write(folder, f"{SECOND}.sql", "create table public.second ();")
    assert migrate(empty_database.owner_url, folder=folder) == [SECOND]


def test_a_file_that_fails_only_at_its_commit_leaves_nothing(empty_database: Database, folder: Path) -> None:
    reference = (
        "alter table public.second add foreign key (id) references public.first (id) deferrable initially deferred"
    )
    write(
        folder,
        f"{SECOND}.sql",
        f"create table public.second (id int); {reference}; insert into public.second values (7)",
    )
    with pytest.raises(MigrationFailed, match=rf"^{SECOND}.sql: .* violates foreign key"):
        migrate(empty_database.owner_url, folder=folder)
    assert tables(empty_database) == {"first"}


def test_the_hint_of_the_server_is_passed_on(empty_database: Database, folder: Path) -> None:
    write(folder, f"{SECOND}.sql", "do $$ begin raise exception 'ids are not uuid' using hint = 'convert them'; end $$")
    with pytest.raises(MigrationFailed, match="ids are not uuid") as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert failed.value.hint.startswith("convert them")


def test_two_at_once_apply_each_file_once(empty_database: Database, folder: Path) -> None:
    write(folder, f"{SECOND}.sql", "select pg_sleep(0.3); create table public.second ();")
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(migrate, empty_database.owner_url, folder=folder) for _ in range(4)]
        applied = [name for run in runs for name in run.result()]
    assert sorted(applied) == [FIRST, SECOND]


def test_migrations_of_others_in_the_same_project_are_left_alone(empty_database: Database, folder: Path) -> None:
    """Even one of the same version as ours, or whose name begins as ours do."""
    owner = empty_database.owner
    write(folder, "20270115000000_add_patients.sql", "this is no migration of ours")
    migrate(empty_database.owner_url, folder=folder)
    theirs = [("20200101000000", "init"), ("20270601000000", "retrocare_tweaks"), ("3", None)]
    for version, name in theirs:
        owner.execute(
            "insert into supabase_migrations.schema_migrations values (%s, '{select 1}', %s)", [version, name]
        )
    write(folder, f"{THIRD}.sql", "create table public.third ();")
    assert migrate(empty_database.owner_url, folder=folder) == [THIRD]
    kept = owner.execute("select version, name from supabase_migrations.schema_migrations").fetchall()
    assert set(theirs) < set(kept)


def test_a_migration_of_ours_is_known_by_its_name_whatever_its_version(empty_database: Database, folder: Path) -> None:
    """Beside a project's own migrations it may have got another number, to come after them."""
    migrate(empty_database.owner_url, folder=folder)
    empty_database.owner.execute("update supabase_migrations.schema_migrations set version = '9' || version")
    assert migrate(empty_database.owner_url, folder=folder) == []


def test_a_newer_database_is_refused_and_says_what_to_do(empty_database: Database, folder: Path) -> None:
    migrate(empty_database.owner_url, folder=folder)
    (folder / f"{SECOND}.sql").unlink()
    with pytest.raises(MigrationFailed, match=r"newer release .* retrocare_1_1_0_second\.$") as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert (failed.value.code, "Update RetroCare Voice" in failed.value.hint) == ("database_newer", True)


@pytest.mark.parametrize("recorded", [True, False])
def test_from_a_database_of_0_1_there_is_no_way_up(empty_database: Database, folder: Path, recorded: bool) -> None:
    """It records its chapters under versions of ours; restored from a backup, perhaps nothing."""
    owner = empty_database.owner
    owner.execute("create schema voice")
    if recorded:
        owner.execute("create schema supabase_migrations")
        owner.execute("create table supabase_migrations.schema_migrations (version text, statements text[], name text)")
        owner.execute("insert into supabase_migrations.schema_migrations values ('20261121090000', '{a}', 'wiring')")
    with pytest.raises(MigrationFailed, match=r"RetroCare Voice 0\.1 made it") as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert failed.value.code == "made_by_0_1"
    assert tables(empty_database) == set()


def test_a_table_that_somebody_holds_is_waited_for_without_keeping_others_waiting(
    empty_database: Database, folder: Path
) -> None:
    """A statement that waits for a lock has everybody queue behind it: it gives way, and tries again."""
    migrate(empty_database.owner_url, folder=folder)
    write(folder, f"{THIRD}.sql", "alter table public.first add column added int;")
    steps: list[str] = []
    with (
        psycopg.connect(empty_database.owner_url) as holder,
        psycopg.connect(empty_database.owner_url, autocommit=True) as reader,
        ThreadPoolExecutor() as threads,
    ):
        holder.execute("select from public.first")
        run = threads.submit(migrate, empty_database.owner_url, steps.append, folder, lock_seconds=0.2)
        while len([step for step in steps if "waits" in step]) < 2:
            reader.execute("select from public.first")
        holder.rollback()
        assert run.result(timeout=20) == [THIRD]


def test_a_login_that_owns_nothing_is_refused_with_a_hint(empty_database: Database, folder: Path) -> None:
    empty_database.admin.execute("create role stranger login")
    with pytest.raises(MigrationFailed, match="may not migrate") as failed:
        migrate(empty_database.url(empty_database.name, "stranger"), folder=folder)
    empty_database.admin.execute("drop role stranger")
    assert "postgres" in failed.value.hint


def test_an_unreachable_database_is_said_without_its_password(folder: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached") as failed:
        migrate("postgresql://postgres:secret-word@127.0.0.1:1/postgres", folder=folder)
    assert "secret-word" not in str(failed.value) + failed.value.hint


def test_a_folder_without_migrations_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no migrations"):
        migrate("postgresql:///never-asked", folder=tmp_path)


def test_a_baseline_that_changed_since_it_was_applied_is_refused(empty_database: Database, tmp_path: Path) -> None:
    write(tmp_path, f"{FIRST}.sql", "create table public.one (id int);")
    migrate(empty_database.owner_url, folder=tmp_path)
    write(tmp_path, f"{FIRST}.sql", "create table public.one (id bigint);")
    with pytest.raises(MigrationFailed, match=r"retrocare_1_0_0\.sql has changed") as raised:
        migrate(empty_database.owner_url, folder=tmp_path)
    assert raised.value.code == "baseline_changed"
    # The Supabase CLI keeps statements and not the file: nothing can be compared.
    empty_database.owner.execute(
        "update supabase_migrations.schema_migrations set statements = '{create table, and another}'"
    )
    assert migrate(empty_database.owner_url, folder=tmp_path) == []


@pytest.mark.parametrize(
    ("present", "raised", "told"),
    [
        (
            "oldest_server constant integer := 16;",
            "oldest_server constant integer := 99;",
            r"PostgreSQL \d+\.\d+.* 99 or",
        ),
        (
            "oldest_vector constant text := '0.8';",
            "oldest_vector constant text := '0.100';",
            r"pgvector 0\.8.* 0\.100 or",
        ),
    ],
)
def test_a_server_that_is_too_old_is_refused_before_anything_is_changed(
    empty_database: Database, tmp_path: Path, present: str, raised: str, told: str, postgres_version: int
) -> None:
    """Older ones cannot be had here: the baseline asks for a newer one instead."""
    baseline = migration_files()[0]
    assert baseline.text.count(present) == 1
    write(tmp_path, baseline.path.name, baseline.text.replace(present, raised))
    before = catalog(empty_database.owner)
    with pytest.raises(MigrationFailed, match=told) as failed:
        migrate(empty_database.owner_url, folder=tmp_path)
    assert "Nothing was changed." in failed.value.hint
    assert catalog(empty_database.owner) == before


def test_a_server_without_pgvector_is_refused(empty_database: Database, tmp_path: Path) -> None:
    baseline = migration_files()[0]
    unknown = baseline.text.replace("extname = 'vector'", "extname = 'other'").replace(
        "name = 'vector'", "name = 'other'"
    )
    write(tmp_path, baseline.path.name, unknown)
    with pytest.raises(MigrationFailed, match="is not installed on this server") as failed:
        migrate(empty_database.owner_url, folder=tmp_path)
    assert "pgvector 0.8" in failed.value.hint


def test_what_is_locked_first_is_there(database: Database) -> None:
    """A table that was renamed would be passed over, as in a database that has none yet."""
    found = [database.owner.execute("select to_regclass(%s)::text", [table]).fetchone() for table in LOCKED_FIRST]
    assert found == [(table.removeprefix("public."),) for table in LOCKED_FIRST]
