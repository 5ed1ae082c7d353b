"""Databases for the tests: one server per PostgreSQL version and session, one cloned database per test.

``RETROCARE_TEST_DATABASE_URL`` names another server to use: a superuser's URL of a PostgreSQL with pgvector that may be
thrown away. That superuser must not be called postgres, because hosted Supabase's postgres is none: give the container
``POSTGRES_USER=supabase_admin``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from fixtures.databases import Database, Server, short_folder
from fixtures.inputs import MODELS, SPEECH, TESTS
from fixtures.networks import SMALL, write_ecapa
from fixtures.next_release import NextRelease, copied
from fixtures.records import Records
from retrocare.database.embedded import embedded

GIVEN_URL = os.environ.get("RETROCARE_TEST_DATABASE_URL", "")
VERSIONS = [0] if GIVEN_URL else [16, 18]  # 0: whatever the given server is
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "60"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests/schema, and tests that name postgres_version themselves, on every version; the rest on one."""
    if "postgres_version" in metafunc.fixturenames:
        asks = "postgres_version" in metafunc.function.__code__.co_varnames[: metafunc.function.__code__.co_argcount]
        on_all = asks or TESTS / "schema" in metafunc.definition.path.parents
        versions = VERSIONS if on_all else VERSIONS[-1:]
        metafunc.parametrize("postgres_version", versions, ids=lambda v: f"pg{v or ''}", scope="session")


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[int], Server]]:
    """Give the session's server of a PostgreSQL version, started when it is first asked for."""
    servers: dict[int, Server] = {}
    with ExitStack() as started:

        def give(version: int) -> Server:
            if version not in servers:
                url = GIVEN_URL
                if url and conninfo_to_dict(url).get("user") == "postgres":
                    pytest.exit("RETROCARE_TEST_DATABASE_URL: its superuser must not be called postgres", 2)
                if not url:
                    folder = started.enter_context(short_folder())
                    url = started.enter_context(embedded(folder, version, FAST)).admin_url()
                servers[version] = Server(url)
                started.callback(servers[version].close)
            return servers[version]

        yield give


@pytest.fixture(scope="session")
def server(server_of: Callable[[int], Server], postgres_version: int) -> Server:
    return server_of(postgres_version)


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A database of its own for each test, with the migrations applied."""
    with server.clone(server.migrated_template) as cloned:
        yield cloned


@pytest.fixture
def records(database: Database) -> Records:
    """The rows of a database of its own, in which one encoder of three dimensions is registered."""
    found = Records(database)
    found.register()
    return found


@pytest.fixture
def empty_database(server: Server) -> Iterator[Database]:
    """A database as hosted Supabase gives it, without the migrations."""
    with server.clone(server.empty_template) as cloned:
        yield cloned


@pytest.fixture
def empty(server: Server) -> Iterator[Callable[[], str]]:
    """Make empty databases, as many as are asked for, and give the login of the owner of each."""
    with ExitStack() as clones:
        yield lambda: clones.enter_context(server.clone(server.empty_template)).owner_url


@pytest.fixture
def next_release(tmp_path: Path, empty: Callable[[], str]) -> NextRelease:
    """The next release of the database, to be made up by the test."""
    return copied(tmp_path, empty)


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Real recordings, a folder a person below librispeech/ and digits/; not part of the repository."""
    if not SPEECH.is_dir():
        pytest.skip(f"no recordings in {SPEECH}: set RETROCARE_SPEECH_DIR")
    return SPEECH


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of exported networks, which every process that a test starts uses."""
    return MODELS


@pytest.fixture(scope="session")
def ecapa_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ECAPA with random weights, in SpeechBrain's folder format."""
    return write_ecapa(tmp_path_factory.mktemp("ecapa"), SMALL, 8)


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A folder for an embedded server's data: short, and outside of /root."""
    with short_folder() as folder:
        yield folder


@pytest.fixture(autouse=True, scope="module")
def no_lazy_modules() -> Iterator[None]:
    """Forget SpeechBrain's placeholders: Hypothesis looks through all loaded modules, and would load them."""
    yield
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            del sys.modules[name]
