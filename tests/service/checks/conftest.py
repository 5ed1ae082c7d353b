"""What tests of checks start from, beside a database: a host that serves recordings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.running import RecordingHost, recording_host


@pytest.fixture
def host() -> Iterator[RecordingHost]:
    with recording_host() as found:
        yield found
