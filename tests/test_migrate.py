"""migrate(): each file once, in order, whole or not at all, whoever else tries at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from databases import Database
from retrocare_voice.errors import ConfigurationError, Unavailable
from retrocare_voice.migrations import MigrationFailed, migrate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "1_first.sql", "create table public.first (id int primary key);")
    write(tmp_path, "2_second.sql", "create table public.second (id int references public.first (id));")
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
    assert migrate(empty_database.owner_url, steps.append, folder) == ["1_first", "2_second"]
    assert steps == ["1_first", "2_second"]
    recorded = empty_database.owner.execute("select * from supabase_migrations.schema_migrations order by 1").fetchall()
    text = "create table public.first (id int primary key);"
    assert [recorded[0], recorded[1][0], recorded[1][2]] == [("1", [text], "first"), "2", "second"]


def test_what_was_applied_is_not_applied_again(empty_database: Database, folder: Path) -> None:
    migrate(empty_database.owner_url, folder=folder)
    assert migrate(empty_database.owner_url, folder=folder) == []
    write(folder, "3_third.sql", "create table public.third ();")
    assert migrate(empty_database.owner_url, folder=folder) == ["3_third"]


def test_notices_are_passed_on(empty_database: Database, folder: Path) -> None:
    write(folder, "3_third.sql", "do $$ begin raise notice 'kept %', 2; end $$;")
    steps: list[str] = []
    migrate(empty_database.owner_url, steps.append, folder)
    assert steps[2:] == ["3_third", "NOTICE: kept 2"]


def test_a_failing_file_leaves_nothing_and_is_named_with_its_line(empty_database: Database, folder: Path) -> None:
    write(folder, "2_second.sql", "create table public.second ();\n\nselect nonsense;\n")
    with pytest.raises(MigrationFailed, match=r'^2_second.sql, line 3: column "nonsense" does not exist$') as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert failed.value.hint == "Nothing of it was applied."
    assert tables(empty_database) == {"first"}
    write(folder, "2_second.sql", "create table public.second ();")
    assert migrate(empty_database.owner_url, folder=folder) == ["2_second"]


def test_a_file_that_fails_only_at_its_commit_leaves_nothing(empty_database: Database, folder: Path) -> None:
    reference = (
        "alter table public.second add foreign key (id) references public.first (id) deferrable initially deferred"
    )
    write(
        folder,
        "2_second.sql",
        f"create table public.second (id int); {reference}; insert into public.second values (7)",
    )
    with pytest.raises(MigrationFailed, match=r"^2_second.sql: .* violates foreign key"):
        migrate(empty_database.owner_url, folder=folder)
    assert tables(empty_database) == {"first"}


def test_the_hint_of_the_server_is_passed_on(empty_database: Database, folder: Path) -> None:
    write(folder, "2_second.sql", "do $$ begin raise exception 'ids are not uuid' using hint = 'convert them'; end $$")
    with pytest.raises(MigrationFailed, match="ids are not uuid") as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert failed.value.hint.startswith("convert them")


def test_two_at_once_apply_each_file_once(empty_database: Database, folder: Path) -> None:
    write(folder, "2_second.sql", "select pg_sleep(0.3); create table public.second ();")
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(migrate, empty_database.owner_url, folder=folder) for _ in range(4)]
        applied = [name for run in runs for name in run.result()]
    assert sorted(applied) == ["1_first", "2_second"]


def test_a_recorded_version_without_a_file_is_refused_with_a_way_out(empty_database: Database, folder: Path) -> None:
    migrate(empty_database.owner_url, folder=folder)
    (folder / "2_second.sql").unlink()
    with pytest.raises(MigrationFailed, match=r"no file here: 2\.$") as failed:
        migrate(empty_database.owner_url, folder=folder)
    assert failed.value.hint.endswith("supabase migration repair --status reverted 2")


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


def test_a_chapter_that_changed_since_it_was_applied_is_refused(empty_database: Database, tmp_path: Path) -> None:
    chapter = tmp_path / "1_first.sql"
    chapter.write_text("create table public.one (id int);")
    migrate(empty_database.owner_url, folder=tmp_path)
    chapter.write_text("create table public.one (id bigint);")
    with pytest.raises(MigrationFailed, match=r"1_first\.sql has changed") as raised:
        migrate(empty_database.owner_url, folder=tmp_path)
    assert raised.value.code == "chapter_changed"
    # The Supabase CLI keeps statements and not the file: nothing can be compared.
    empty_database.owner.execute(
        "update supabase_migrations.schema_migrations set statements = '{create table, and another}'"
    )
    assert migrate(empty_database.owner_url, folder=tmp_path) == []
