"""What the internet sends: hostile recordings and generated requests. Each gets a clear answer and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fixtures import hostile
from fixtures.databases import Server
from fixtures.running import Running, running
from retrocare.cli.demo import RECORDINGS

EXTRA_BYTES = 500_000_000
QUICK_SECONDS = 20  # ten times what the slowest took
LEFT_BEHIND = ["voice.embeddings", "voice.baselines", "public.voice_anomaly_logs", "public.caregiver_alerts"]


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[Running]:
    with server.clone(server.migrated_template) as database, running(database) as found:
        found.records.set_policy(maximum_call_seconds=hostile.MAXIMUM_SECONDS)
        yield found


class PeakMemory:
    """Watch how much memory this process takes at most."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.peak = self.process.memory_info().rss
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __enter__(self) -> PeakMemory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def test_every_hostile_recording_is_not_assessable_for_its_reason_and_leaves_its_check_alone(app: Running) -> None:
    app.client.post("/embed", files={"file": (RECORDINGS / "01-enrol-monday.flac").read_bytes()})  # warm
    patient_id = app.records.patient()
    warm = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        for file in hostile.FILES:
            body = {
                "patientId": str(patient_id),
                "audioUrl": app.host.offer(file.name, file.data),
                "channel": file.channel,
            }
            begun = time.monotonic()
            answer = app.client.post("/api/anomaly-check", json=body)
            assert time.monotonic() - begun < QUICK_SECONDS, file.name
            found = answer.json()
            assert (answer.status_code, found["outcome"], found["reason"]) == (200, "not_assessable", file.reason), (
                file.name
            )
            assert found["anomalyScore"] is None
    print(f"\n{len(hostile.FILES)} hostile files: at most {(memory.peak - warm) / 1e6:.0f} MB above the warm process")
    assert memory.peak - warm < EXTRA_BYTES
    assert app.records.one("select count(*) from care.checks") == len(hostile.FILES)
    assert [app.records.one(f"select count(*) from {table}") for table in LEFT_BEHIND] == [0] * len(LEFT_BEHIND)


def test_every_hostile_upload_is_refused_by_embed_for_its_reason(app: Running) -> None:
    for file in hostile.FILES:
        form = {"channel": file.channel} if file.channel else {}
        answer = app.client.post("/embed", files={"file": ("call", file.data)}, data=form)
        assert (answer.status_code, answer.json()["code"]) == (422, file.reason), file.name


def test_the_service_still_judges_after_all_that(app: Running) -> None:
    content = (RECORDINGS / "01-enrol-monday.flac").read_bytes()
    assert app.client.post("/embed", files={"file": content}).status_code == 200


@pytest.mark.timeout(600)
def test_generated_requests_never_make_a_server_error(app: Running) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        str(app.client.base_url.join("/openapi.json")),
        "--checks=not_a_server_error",
        "--max-examples=40",
        "--seed=1",
        "--no-color",
        "--generation-database=none",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "not_a_server_error" not in done.stdout.partition("FAILURES")[2]
