"""The databases that tests work on: cloned from templates, a few milliseconds each."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from retrocare.database.embedded import bootstrap
from retrocare.database.migrations import migrate

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Database:
    """One database and the connections of those who use it; all are closed when the test ends."""

    name: str
    url: Callable[[str, str | None], str]
    opened: ExitStack

    @property
    def admin_url(self) -> str:
        return self.url(self.name, None)

    @property
    def owner_url(self) -> str:
        return self.url(self.name, "postgres")

    @property
    def service_url(self) -> str:
        return self.url(self.name, "retrocare_service")

    def connect(self, url: str) -> Connection:
        return self.opened.enter_context(psycopg.connect(url, autocommit=True))

    @cached_property
    def owner(self) -> Connection:
        """A connection as postgres, which owns the schema and is no superuser."""
        return self.connect(self.owner_url)

    @cached_property
    def service(self) -> Connection:
        """A connection as retrocare_service."""
        return self.connect(self.service_url)

    @cached_property
    def admin(self) -> Connection:
        """A connection as the superuser."""
        return self.connect(self.admin_url)

    def close(self) -> None:
        """Close the connections; the next use opens new ones, for instance to a server that was started again."""
        self.opened.close()
        for name in ("owner", "service", "admin"):
            self.__dict__.pop(name, None)

    @contextmanager
    def as_role(self, role: str, sub: str | None = None) -> Iterator[Connection]:
        """Ask as PostgREST does: log in as authenticator, take the role, state the claims of the caller's token."""
        claims = {"role": role} | ({"sub": str(sub)} if sub else {})
        with psycopg.connect(self.url(self.name, "authenticator"), autocommit=True) as connection:
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            connection.execute("select set_config('search_path', 'public, extensions', false)")
            connection.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)])
            yield connection


class Server:
    """A server with two templates: as hosted Supabase gives it, and with the migrations applied."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.admin = psycopg.connect(admin_url, autocommit=True)
        self.numbers = count(1)
        self.prefix = f"rc_{os.getpid()}"
        self.templates: list[str] = []

    def url(self, database: str, user: str | None = None) -> str:
        return make_conninfo(self.admin_url, dbname=database, **({"user": user} if user else {}))

    @cached_property
    def empty_template(self) -> str:
        name = self._create(f"{self.prefix}_empty", "template0")
        bootstrap(self.url(name))
        if password := conninfo_to_dict(self.admin_url).get("password"):
            for role in ("postgres", "authenticator"):
                self._execute("alter role {} password {}", sql.Identifier(role), sql.Literal(password))
        return name

    @cached_property
    def migrated_template(self) -> str:
        name = self._create(f"{self.prefix}_migrated", self.empty_template)
        self._execute("alter database {} owner to postgres", sql.Identifier(name))
        migrate(self.url(name, "postgres"))
        if password := conninfo_to_dict(self.admin_url).get("password"):
            self._execute("alter role retrocare_service password {}", sql.Literal(password))
        return name

    @contextmanager
    def clone(self, template: str) -> Iterator[Database]:
        name = f"{self.prefix}_{next(self.numbers)}"
        create = "create database {} template {} strategy file_copy owner postgres"
        self._execute(create, sql.Identifier(name), sql.Identifier(template))
        try:
            with ExitStack() as opened:
                yield Database(name, self.url, opened)
        finally:
            self._execute("drop database {} with (force)", sql.Identifier(name))

    def close(self) -> None:
        for name in self.templates:
            self._execute("drop database if exists {} with (force)", sql.Identifier(name))
        self.admin.close()

    def _create(self, name: str, template: str) -> str:
        self.templates.append(name)
        self._execute("drop database if exists {} with (force)", sql.Identifier(name))  # what a failed attempt left
        self._execute("create database {} template {}", sql.Identifier(name), sql.Identifier(template))
        return name

    def _execute(self, statement: LiteralString, *values: sql.Composable) -> None:
        try:
            self.admin.execute(sql.SQL(statement).format(*values))
        except psycopg.OperationalError:  # the server was killed, on purpose, and is back
            self.admin = psycopg.connect(self.admin_url, autocommit=True)
            self.admin.execute(sql.SQL(statement).format(*values))


@contextmanager
def short_folder(in_memory: bool = True) -> Iterator[Path]:
    """Make a folder that another account may enter, with a path short enough for a socket.

    In memory where there is room: a database is cloned in 8 ms there, in 50 to 400 ms on a disk. What may be larger
    than memory asks for the disk.
    """
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    place = "/var/tmp" if not in_memory else memory if has_room else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir=place))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
