"""The release of a database and that of a service: who works with whom, and what is said where they do not."""

from __future__ import annotations

import pytest

from fixtures.commands import in_process, objects
from fixtures.databases import Database
from fixtures.records import Records
from fixtures.running import settings_for
from retrocare import __version__
from retrocare.database.connection import connected
from retrocare.database.migrations import FILE, MIGRATIONS
from retrocare.database.releases import Release, needed_release, release_of, this_release
from retrocare.errors import Unavailable

LATER = "create or replace function care.release() returns table (version text, oldest_service text) language sql"


def pretend(database: Database, version: str, oldest_service: str) -> None:
    database.owner.execute(f"{LATER} as $$ select '{version}', '{oldest_service}' $$".encode())


def refusal(database: Database) -> Unavailable:
    with pytest.raises(Unavailable) as refused, connected(settings_for(database)):
        pass
    return refused.value


@pytest.mark.parametrize(
    ("version", "release"),
    [("1.0.0", (1, 0, 0)), ("1.0.0.dev0", (1, 0, 0)), ("20261121090000_retrocare_1_12_3_keys.sql", (1, 12, 3))],
)
def test_a_release_is_its_three_numbers(version: str, release: tuple[int, int, int]) -> None:
    assert release_of(version) == release


def test_the_database_names_the_release_of_the_newest_migration_file(database: Database) -> None:
    assert release_of(Records(database).call("release")["version"]) == needed_release() <= this_release()


def test_every_migration_file_is_named_so_that_migrate_applies_it() -> None:
    assert [path.name for path in MIGRATIONS.iterdir() if not FILE.fullmatch(path.name)] == []


def test_a_service_works_on_a_database_that_is_one_release_newer(database: Database) -> None:
    pretend(database, str(Release(this_release().major + 1, 0, 0)), str(this_release()))
    with connected(settings_for(database)) as opened:
        assert opened.patient_list() == []


def test_a_service_that_is_too_old_for_the_database_is_told_to_be_updated(database: Database) -> None:
    pretend(database, "99.1.0", "99.0.0")
    refused = refusal(database)
    assert (refused.code, refused.hint) == ("service_outdated", "Update the service to 99.1.0.")
    assert "from 99.0.0 on" in str(refused)


def test_a_database_that_is_older_than_the_service_needs_is_to_be_migrated(database: Database) -> None:
    pretend(database, "0.9.0", "0.9.0")
    refused = refusal(database)
    assert (refused.code, "retrocare migrate" in refused.hint) == ("database_outdated", True)
    assert str(needed_release()) in str(refused)


def test_a_database_without_the_schema_is_to_be_migrated(database: Database, empty_database: Database) -> None:
    """The login may be there: another database of the same server has the schema."""
    refused = refusal(empty_database)
    assert (refused.code, "retrocare migrate" in refused.hint) == ("not_migrated", True)


def test_the_commands_say_it_and_doctor_names_both_releases(database: Database) -> None:
    run = in_process(DATABASE_URL=database.service_url)
    [row] = [row for row in objects(run("doctor", "--json").stdout) if row["part"] == "database"]
    assert row["state"] == "ok"
    assert row["detail"].endswith(f"release {needed_release()}; this program is {__version__}")
    pretend(database, "99.1.0", "99.0.0")
    for words in (("patient", "list"), ("start", "--port", "0"), ("worker",)):
        done = run(*words)
        assert (done.returncode, "(service_outdated)" in done.stderr) == (1, True)
    [row] = [row for row in objects(run("doctor", "--json").stdout) if row["part"] == "database"]
    assert (row["state"], "Update the service" in row["detail"]) == ("missing", True)
