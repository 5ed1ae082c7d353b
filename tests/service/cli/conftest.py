"""What tests of commands start from: one database for all of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.databases import Server
from fixtures.records import Records


@pytest.fixture(scope="module")
def records(server: Server) -> Iterator[Records]:
    with server.clone(server.migrated_template) as database:
        yield Records(database)
