"""Admission: what is too much is turned away at once, and what nobody waits for is not worked on."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from fixtures.databases import Database
from fixtures.processes import until
from fixtures.running import Running, running, settings_for
from retrocare.api.admission import Admission
from retrocare.audio.decode import claimed_seconds
from retrocare.cli.demo import RECORDINGS
from retrocare.errors import TooBusy
from retrocare.observability import registry

MONDAY = (RECORDINGS / "01-enrol-monday.flac").read_bytes()
ENROLMENT = [
    ("file", (name, (RECORDINGS / name).read_bytes()))
    for name in ("01-enrol-monday.flac", "02-enrol-tuesday.flac", "03-enrol-wednesday.flac")
]
PATIENCE_SECONDS = 60


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(round(8000 * seconds), np.int16), 8000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@contextmanager
def busy(app: Running) -> Iterator[None]:
    """Keep the inference thread busy."""
    release, begun = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        release.wait(PATIENCE_SECONDS)

    thread = threading.Thread(target=app.service.inference.run, args=[job])
    thread.start()
    assert begun.wait(PATIENCE_SECONDS)
    try:
        yield
    finally:
        release.set()
        thread.join()


def embed(app: Running, content: bytes = MONDAY) -> httpx.Response:
    return app.client.post("/embed", files={"file": content})


def turned_away(code: str) -> float:
    return registry.get_sample_value("retrocare_turned_away_total", {"code": code}) or 0.0


def test_more_requests_than_are_admitted_are_turned_away_at_once(database: Database) -> None:
    with running(database, admitted_requests=2) as app, ThreadPoolExecutor(2) as pool, busy(app):
        waiting = [pool.submit(embed, app) for _ in range(2)]
        until(lambda: app.admission.requests == 2)
        begun = time.monotonic()
        refused = embed(app)
        assert time.monotonic() - begun < 5
        assert (refused.status_code, refused.json()["code"]) == (429, "too_busy")
        assert int(refused.headers["Retry-After"]) > 0
        assert app.client.get("/readyz").status_code == 200
    assert [answer.result().status_code for answer in waiting] == [200, 200]


def test_more_audio_than_is_admitted_is_turned_away(database: Database) -> None:
    seconds = claimed_seconds(MONDAY)
    with (
        running(database, admitted_audio_seconds=1.5 * seconds) as app,
        ThreadPoolExecutor(1) as pool,
        busy(app),
    ):
        waiting = pool.submit(embed, app)
        until(lambda: app.admission.audio_seconds > 0)
        refused = embed(app)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_busy")
    assert waiting.result().status_code == 200


def test_a_single_recording_longer_than_all_that_is_admitted_is_still_judged(database: Database) -> None:
    with running(database, admitted_audio_seconds=1.0) as app:
        assert embed(app).status_code == 200
        assert (app.admission.requests, app.admission.audio_seconds) == (0, 0)


def test_an_answer_that_would_come_too_late_is_503(database: Database) -> None:
    with running(database, request_seconds=0.5) as app, busy(app):
        answer = embed(app)
        assert (answer.status_code, answer.json()["code"]) == (503, "deadline_exceeded")
        assert int(answer.headers["Retry-After"]) > 0


def test_a_check_whose_answer_would_come_too_late_is_left_to_the_workers(database: Database) -> None:
    with running(database, request_seconds=0.5) as app:
        patient_id = app.records.patient()
        body = {"patientId": str(patient_id), "audioUrl": app.host.offer("monday.flac", MONDAY)}
        with busy(app):
            assert app.client.post("/api/anomaly-check", json=body).status_code == 503
        assert app.records.row("select state, attempts from care.checks") == {"state": "queued", "attempts": 0}


def test_work_whose_caller_has_gone_is_dropped(database: Database) -> None:
    with running(database) as app:
        patient_id = app.records.patient()
        body = {"patientId": str(patient_id), "audioUrl": app.host.offer("monday.flac", MONDAY)}
        before = turned_away("caller_gone")
        with busy(app):
            with pytest.raises(httpx.ReadTimeout):
                app.client.post("/api/anomaly-check", json=body, timeout=1.0)
            until(lambda: turned_away("caller_gone") > before)
        until(lambda: app.admission.requests == 0)
        assert app.records.row("select state, attempts from care.checks") == {"state": "queued", "attempts": 0}
        assert app.records.one("select count(*) from voice.embeddings") == 0


def test_an_answer_says_how_long_each_phase_took(database: Database) -> None:
    with running(database) as app:
        phases = [part.partition(";")[0] for part in embed(app).headers["Server-Timing"].split(", ")]
        assert phases == ["fetch", "voiceprint"]
        body = {"patientId": str(app.records.patient()), "audioUrl": app.host.offer("monday.flac", MONDAY)}
        timing = app.client.post("/api/anomaly-check", json=body).headers["Server-Timing"]
        assert [part.partition(";")[0] for part in timing.split(", ")] == ["fetch", "voiceprint", "complete"]


def test_metrics_show_the_list_and_what_happened(database: Database) -> None:
    with running(database) as app:
        patient_id = app.records.patient()
        app.records.call_log(patient_id, recording_ref=app.host.address("waits.flac"))
        body = {"patientId": str(app.records.patient()), "audioUrl": app.host.offer("monday.flac", MONDAY)}
        app.client.post("/api/anomaly-check", json=body)
        shown = app.client.get("/metrics").text
        assert "retrocare_queue_depth 1.0" in shown
        assert 'retrocare_checks{model="ge2e-v2",reason="",signal="voice",state="enrolled"} 1.0' in shown
        assert "retrocare_database_up 1.0" in shown
        age = float(shown.partition("\nretrocare_oldest_waiting_seconds ")[2].split()[0])
        assert 0 < age < 60
        refused = app.client.post("/embed", json={"audio_url": "https://127.0.0.2/x"})
        assert (refused.status_code, refused.json()["code"]) == (403, "recording_refused")
        assert 'retrocare_fetch_refusals_total{refusal="host"}' in app.client.get("/metrics").text
        for name in ("phase_seconds_bucket", "outcomes_total", "attempts_total", "encoder_info"):
            assert f"retrocare_{name}" in shown
        app.records.do("revoke usage on schema care, voice from retrocare_service")
        assert "retrocare_database_up 0.0" in app.client.get("/metrics").text


def test_a_recording_says_its_length_or_its_size_does() -> None:
    second = np.zeros(8000, np.float32)
    for format, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")):
        buffer = io.BytesIO()
        soundfile.write(buffer, second, 8000, format=format, subtype=subtype)
        assert claimed_seconds(buffer.getvalue()) == pytest.approx(1.0, abs=0.05), format
    assert claimed_seconds(b"no audio") == 0


def test_sixty_four_callers_on_a_queue_of_eight_are_answered_or_turned_away_at_once(database: Database) -> None:
    """Latency and memory stay bounded; ``pytest -s`` prints them."""
    with running(database, admitted_requests=8) as app:
        embed(app)
        process = psutil.Process()
        before = process.memory_info().rss
        gate = threading.Barrier(64)

        def call(_: int) -> tuple[int, float]:
            with httpx.Client(base_url=app.client.base_url, timeout=PATIENCE_SECONDS) as client:
                gate.wait(PATIENCE_SECONDS)
                begun = time.monotonic()
                answer = client.post("/embed", files={"file": MONDAY})
                return answer.status_code, time.monotonic() - begun

        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(call, range(64)))
        counts = Counter(status for status, _ in answers)
        slowest = {status: max(spent for found, spent in answers if found == status) for status in counts}
        grown = (process.memory_info().rss - before) / 1e6
        told = ", ".join(f"{counts[status]} x {status} within {slowest[status]:.2f} s" for status in sorted(counts))
        print(f"\n64 callers, 8 admitted: {told}; memory grew by {grown:.0f} MB")
        assert set(counts) == {200, 429}
        assert counts[200] >= 8
        assert slowest[429] < 10
        assert slowest[200] < 30
        assert grown < 500


def test_a_caller_that_never_sends_its_body_holds_nobody_up(database: Database) -> None:
    with running(database, admitted_requests=2, request_seconds=1.0) as app:
        host, port = app.client.base_url.host, app.client.base_url.port
        head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        with socket.create_connection((host, port or 80)) as one, socket.create_connection((host, port or 80)) as two:
            for connection in (one, two):
                connection.sendall(head)
            time.sleep(0.3)
            until(lambda: embed(app).status_code == 200)


def test_an_enrolment_on_an_idle_service_is_not_too_busy_with_itself(database: Database) -> None:
    with running(database, admitted_audio_seconds=1.5 * claimed_seconds(MONDAY)) as app:
        answer = app.client.post(f"/api/patients/{app.records.patient()}/baseline", files=ENROLMENT)
        assert [result["outcome"] for result in answer.json()["results"]] == ["enrolled"] * 3


def test_an_enrolment_that_comes_too_late_is_refused_as_a_whole(database: Database) -> None:
    with running(database, request_seconds=0.5) as app, busy(app):
        before = turned_away("deadline_exceeded")
        answer = app.client.post(f"/api/patients/{app.records.patient()}/baseline", files=ENROLMENT)
        assert (answer.status_code, answer.json()["code"]) == (503, "deadline_exceeded")
        assert turned_away("deadline_exceeded") > before
        assert app.records.one("select count(*) from public.call_logs") == 1  # the others were never begun


def test_an_enrolment_that_is_too_much_now_is_refused_as_a_whole(database: Database) -> None:
    with running(database, admitted_audio_seconds=1.0) as app, ThreadPoolExecutor(1) as pool:
        with busy(app):
            first = pool.submit(embed, app)
            until(lambda: app.admission.audio_seconds > 0)
            answer = app.client.post(f"/api/patients/{app.records.patient()}/baseline", files=ENROLMENT)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_busy")
            assert answer.headers["Retry-After"] == "5"
        assert first.result().status_code == 200


def test_what_was_reserved_is_free_again_to_the_millisecond(database: Database) -> None:
    admission = Admission(settings_for(database, admitted_audio_seconds=1.0))
    with admission.reserve(wav(0.1)), admission.reserve(wav(0.7)), admission.reserve(wav(0.2)):
        with pytest.raises(TooBusy), admission.reserve(wav(0.1)):
            pass
        assert admission.audio_seconds == 1.0
    assert admission.audio_seconds == 0
    with admission.reserve(wav(2)):  # alone, it is accepted whatever its length
        assert admission.audio_seconds == 2
