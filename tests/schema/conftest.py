"""What every SQL test starts from: a database with the migrations applied and one encoder of three dimensions."""

from __future__ import annotations

import pytest

from fixtures.databases import Database
from fixtures.records import Records


@pytest.fixture
def records(database: Database) -> Records:
    found = Records(database)
    found.register()
    return found
