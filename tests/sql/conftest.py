"""What every SQL test starts from: a database with the migrations applied and one encoder of three dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from records import Records

if TYPE_CHECKING:
    from databases import Database


@pytest.fixture
def records(database: Database) -> Records:
    found = Records(database)
    found.register()
    return found
