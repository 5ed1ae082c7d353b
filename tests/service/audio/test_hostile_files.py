"""Every hostile or broken file is refused for the stated reason, quickly and in little memory."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fixtures import hostile
from fixtures.inputs import TESTS
from retrocare.audio.decode import decode
from retrocare.errors import NotAssessable

MEASURE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import av
from fixtures import hostile
from retrocare.audio.decode import decode
from retrocare.errors import NotAssessable
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
files = hostile.FILES
before = peak_mb()
for file in files:
    try:
        decode(file.data, file.channel, hostile.MAXIMUM_SECONDS)
    except NotAssessable:
        pass
print(peak_mb() - before)
"""


@pytest.mark.parametrize("file", hostile.FILES, ids=lambda file: file.name)
def test_decode_refuses(file: hostile.HostileFile) -> None:
    start = time.monotonic()
    with pytest.raises(NotAssessable) as refused:
        decode(file.data, file.channel, hostile.MAXIMUM_SECONDS)
    assert refused.value.reason == file.reason
    assert refused.value.measures["detail" if file.reason != "too_long" else "seconds"]
    assert time.monotonic() - start < 2


def test_decode_needs_less_than_100_mb_for_any_hostile_file() -> None:
    command = [sys.executable, "-c", MEASURE, str(TESTS)]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 100
