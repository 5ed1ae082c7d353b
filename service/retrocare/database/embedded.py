"""A PostgreSQL with pgvector in a data folder, made to look like hosted Supabase.

Any number of commands share one server. Each holds a shared lock on ``postgres-18.users`` while it works, which the
kernel releases however the process ends; ``postgres-18.turn`` is held while starting or stopping. The last command to
end stops the server. If that one was killed, the next command finds the server running and stops it at its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from retrocare.database.programs import OWN_DATABASE, Programs, find_programs
from retrocare.errors import ConfigurationError, Unavailable
from retrocare.observability import Say, silently

BOOTSTRAP = Path(__file__).with_name("supabase_like.sql")
START_SECONDS = 90  # recovery after a crash may take long
LONGEST_SOCKET_PATH = 100  # bytes; the kernels' limits are 104 (macOS) and 108 (Linux)
LONGEST_LOG = 10_000_000  # bytes; a longer log is deleted at the next start

# As on hosted Supabase, except that no statement, row or vector is written to the log.
SERVER_SETTINGS = {
    "listen_addresses": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "wal_level": "logical",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class EmbeddedServer:
    """Where the server listens: on a socket in a folder that no other user of the machine may enter."""

    socket_dir: Path

    def owner_url(self, database: str = "postgres") -> str:
        """Return the URL of the migrations' owner, which is not a superuser."""
        return self._url("postgres", database)

    def service_url(self, database: str = "postgres") -> str:
        """Return the URL of the service's login, which exists once the migrations are applied."""
        return self._url("retrocare_service", database)

    def admin_url(self, database: str = "postgres") -> str:
        """Return the superuser's URL, for the bootstrap and for tests."""
        return self._url("supabase_admin", database)

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}@/{quote(database)}?host={quote(str(self.socket_dir), safe='')}&port=5432"


def set_aside(server: EmbeddedServer, database: str = "postgres") -> str:
    """Keep a database under another name and put an empty one in its place; return the name it has now.

    Raises: Unavailable while another command uses it.
    """
    kept = f"{database}_until_{time.strftime('%Y%m%d_%H%M%S')}"
    with psycopg.connect(server.admin_url("template1"), autocommit=True) as connection:
        try:
            connection.execute(f'alter database "{database}" rename to "{kept}"'.encode())
        except psycopg.errors.ObjectInUse:
            raise Unavailable(f"Another command uses the database {database}", "End it, then try again.") from None
        connection.execute(f'create database "{database}" template template0'.encode())
    bootstrap(server.admin_url(database))
    return kept


@contextmanager
def embedded(
    data_dir: Path, version: int = 18, options: Mapping[str, str] | None = None, say: Say = silently
) -> Iterator[EmbeddedServer]:
    """Start the server in ``data_dir`` or join it, and stop it if nobody else uses it when the block ends.

    Raises: ConfigurationError where the folder cannot be used, Unavailable where the server does not start.
    """
    data_dir = data_dir.expanduser().resolve()
    cluster = _Cluster(data_dir / f"postgres-{version}", version, {**SERVER_SETTINGS, **(options or {})}, say)
    with _opened(data_dir, f"postgres-{version}.turn") as turn, _opened(data_dir, f"postgres-{version}.users") as users:
        try:
            with _locked(turn):
                fcntl.flock(users, fcntl.LOCK_SH)
                server = cluster.running() or cluster.start()
                bootstrap(server.admin_url())
            yield server
        finally:
            with _locked(turn), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while another command holds it
                cluster.stop()


def bootstrap(admin_url: str) -> None:
    """Make a database look like hosted Supabase, in one transaction, unless this script was run on it before."""
    script = BOOTSTRAP.read_text(encoding="utf-8")
    mark = f"retrocare bootstrap {hashlib.sha256(script.encode()).hexdigest()[:16]}"
    with psycopg.connect(admin_url, options="-c client_min_messages=warning") as connection:
        found = connection.execute("select obj_description(to_regnamespace('storage'), 'pg_namespace')").fetchone()
        if found != (mark,):
            connection.execute(script.encode())
            connection.execute(f"comment on schema storage is '{mark}'".encode())


class _Cluster:
    """The data of one PostgreSQL version and the server on them; callers hold the lock ``turn``."""

    def __init__(self, pgdata: Path, version: int, settings: Mapping[str, str], say: Say) -> None:
        self.pgdata, self.version, self.settings, self.say = pgdata, version, settings, say
        self.pid_file = pgdata / "postmaster.pid"
        self.log = pgdata / "server.log"

    @cached_property
    def programs(self) -> Programs:
        return find_programs(self.version, self.pgdata, self.say)

    def running(self) -> EmbeddedServer | None:
        """Return the server of this folder if it answers; wait while it starts or recovers."""
        deadline = time.monotonic() + START_SECONDS
        while lines := self._pid_lines():
            try:
                server = EmbeddedServer(Path(lines[4]))
                with psycopg.connect(server.admin_url(), connect_timeout=10) as connection:
                    folder = connection.execute("select current_setting('data_directory')").fetchone()
                return server if folder == (str(self.pgdata),) else None  # otherwise the folder is a copy of another
            except (IndexError, psycopg.OperationalError) as error:
                if not self._is_alive(lines[0]):
                    return None
                if time.monotonic() > deadline:
                    raise self._unavailable(str(error)) from None
            time.sleep(0.05)
        return None

    def start(self) -> EmbeddedServer:
        """Start the server, on new data if there are none; files that a crash left do not keep it from starting."""
        if not self.pgdata.exists():
            self._create()
        lines = self._pid_lines()
        if lines and not self._is_alive(lines[0]):
            for stale in (self.pid_file, self.pgdata / ".s.PGSQL.5432.lock"):
                stale.unlink(missing_ok=True)  # its process id may by now be another process, or a zombie
        if self.log.exists() and self.log.stat().st_size > LONGEST_LOG:
            self.log.unlink()
        settings = {**self.settings, "unix_socket_directories": str(self._socket_dir())}
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
        files = ["-D", str(self.pgdata), "-l", str(self.log)]
        deadline = time.monotonic() + START_SECONDS
        while True:
            _, output = self.programs.run("pg_ctl", *files, "-w", "-t", str(START_SECONDS), "-o", options, "start")
            if server := self.running():
                return server
            words = "\n".join([output, *self._last_lines()])
            if "shared memory block" not in words or time.monotonic() > deadline:
                raise self._unavailable(words)
            time.sleep(0.2)  # children of a killed server are still ending

    def stop(self) -> None:
        """Stop the server if it runs; open transactions are rolled back."""
        lines = self._pid_lines()
        if lines and self._is_alive(lines[0]):
            self.programs.run("pg_ctl", "-D", str(self.pgdata), "-w", "-m", "fast", "stop")
            if len(lines) > 4 and Path(lines[4]) != self.pgdata:
                with suppress(OSError):
                    Path(lines[4]).rmdir()

    def _create(self) -> None:
        unfinished = self.pgdata.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self.programs.lend(unfinished)
        # The same collation on every machine; 16 has no builtin C.UTF-8.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if self.version >= 17 else []
        login = ["--auth=trust", "--username=supabase_admin"]
        status, output = self.programs.run(
            "initdb", "-D", str(unfinished), "--encoding=UTF8", "--no-locale", *locale, *login
        )
        if status:
            raise self._unavailable(output)
        unfinished.rename(self.pgdata)

    def _socket_dir(self) -> Path:
        is_short = len(os.fsencode(self.pgdata / ".s.PGSQL.5432.lock")) <= LONGEST_SOCKET_PATH
        if is_short and "," not in str(self.pgdata):  # clients read a comma as a separator of hosts
            return self.pgdata
        folder = Path(tempfile.mkdtemp(prefix="retrocare-", dir="/tmp"))
        self.programs.lend(folder)
        return folder

    def _pid_lines(self) -> list[str]:
        try:
            return self.pid_file.read_text().splitlines()
        except FileNotFoundError:
            return []

    def _last_lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()[-5:] if self.log.exists() else []

    def _is_alive(self, pid: str) -> bool:
        """Say whether that process is a server on these data, and not another process with a reused id."""
        try:
            return str(self.pgdata) in psutil.Process(int(pid)).cmdline()
        except (ValueError, psutil.Error):
            return False

    def _unavailable(self, reason: str) -> Unavailable:
        if "No space left on device" in reason:
            return Unavailable(f"No space is left for {self.pgdata}", "Make some, then try again.", "no_space")
        return Unavailable(f"PostgreSQL in {self.pgdata} does not start: {reason.strip()}", f"Its log is {self.log}.")


@contextmanager
def _opened(data_dir: Path, name: str) -> Iterator[int]:
    """Open a lock file; make its folder first."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The data folder {data_dir} cannot be used: {error.strerror}.",
            f"Set RETROCARE_DATA_DIR to a folder that you may write to, {OWN_DATABASE}",
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
