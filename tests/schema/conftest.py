"""What tests of the schema start from, beside a database: a patient of whom nothing is known yet."""

from __future__ import annotations

from uuid import UUID

import pytest

from fixtures.records import Records


@pytest.fixture
def patient_id(records: Records) -> UUID:
    return records.patient()
