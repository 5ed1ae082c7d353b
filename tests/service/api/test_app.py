"""The routes, over real HTTP, with the real encoder and a real database."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from fixtures.databases import Server
from fixtures.running import Running, running
from retrocare.api.auth import hash_of
from retrocare.cli.demo import RECORDINGS

MONDAY, TUESDAY, WEDNESDAY = (
    RECORDINGS / f"{name}.flac" for name in ("01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday")
)
USUAL, OTHER, SILENCE = (RECORDINGS / f"{n}.flac" for n in ("04-usual-thursday", "10-another-voice", "12-silence"))


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[Running]:
    with server.clone(server.migrated_template) as database, running(database) as found:
        yield found


@pytest.fixture
def patient_id(app: Running) -> UUID:
    return app.records.patient()


def check(app: Running, patient_id: UUID, file: Path, **more: object) -> dict[str, object]:
    url = app.host.offer(file.name, file)
    answer = app.client.post("/api/anomaly-check", json={"patientId": str(patient_id), "audioUrl": url, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_health_names_the_service_the_encoder_and_why(app: Running) -> None:
    found = app.client.get("/health").json()
    assert (found["status"], found["service"], found["encoder"]) == ("ok", "anomaly-detection", "ge2e-v2")
    assert "asked for by name" in found["why"]


def test_readyz_says_ready_only_while_the_encoder_is_the_active_one(app: Running) -> None:
    assert app.client.get("/readyz").status_code == 200
    app.records.do("select voice.register_encoder('next-v1', 3, 1)")
    app.records.do("update care.models set is_active = false where is_active")
    app.records.do("update care.models set is_active = true where id = 'next-v1'")
    try:
        answer = app.client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "encoder_not_active")
        refused = app.client.post("/api/anomaly-check", json={"patientId": str(uuid4()), "audioUrl": "http://x/y"})
        assert refused.status_code == 503
        assert app.client.get("/health").status_code == 200
    finally:
        app.records.do("delete from care.models where id = 'next-v1'")
        app.records.do("update care.models set is_active = true")


def test_embed_takes_a_url_and_gives_a_unit_vector(app: Running) -> None:
    url = app.host.offer("monday.flac", MONDAY)
    found = app.client.post("/embed", json={"audio_url": url, "sample_rate": 44100}).json()
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1, abs=1e-5)
    assert (len(found["embedding"]), found["encoder"], found["sample_rate"]) == (256, "ge2e-v2", 16000)
    assert found["speech_seconds"] > 3
    assert found["snr"] > 20
    assert found["quality"]["channel"] == "mono"


def test_embed_takes_a_file_and_gives_the_same_vector(app: Running) -> None:
    url = app.host.offer("monday.flac", MONDAY)
    by_url = app.client.post("/embed", json={"audio_url": url}).json()
    by_file = app.client.post("/embed", files={"file": ("monday.flac", MONDAY.read_bytes())}, data={"channel": "mono"})
    assert by_file.json() == by_url


def test_embed_takes_one_recording_at_a_time(app: Running) -> None:
    answer = app.client.post("/embed", files=[("file", ("a", b"x")), ("file", ("b", b"y"))])
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_form_is_told_what_is_wrong_with_it_and_its_channel_counts(app: Running) -> None:
    answer = app.client.post("/embed", data={"channel": "mono"}, files={"note": ("", b"")})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    file = {"file": ("monday.flac", MONDAY.read_bytes())}
    for channel, status, code in (("middle", 400, "bad_request"), ("left", 422, "ambiguous_channel")):
        answer = app.client.post("/embed", files=file, data={"channel": channel})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_refusal_repeats_nothing_of_what_was_sent(app: Running) -> None:
    for body in ('{"baseline": ["secret"], "current": [1]}', '{"baseline": [NaN], "current": [1]}'):
        answer = app.client.post("/compare", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert "secret" not in answer.text


def test_embed_says_why_a_recording_cannot_be_judged_with_its_numbers(app: Running) -> None:
    answer = app.client.post("/embed", files={"file": ("silence.flac", SILENCE.read_bytes())})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_speech")
    app.records.set_policy(minimum_speech_seconds=60)
    try:
        found = app.client.post("/embed", files={"file": ("monday.flac", MONDAY.read_bytes())}).json()
    finally:
        app.records.set_policy(minimum_speech_seconds=3)
    assert found["code"] == "too_little_speech"
    assert re.fullmatch(r"Heard \d+\.\d s of speech; 60 are needed\.", found["detail"])
    assert "{" not in f"{found['detail']}{found['hint']}"


def test_compare_is_the_sql_function(app: Running) -> None:
    generator = np.random.default_rng(7)
    one, two = generator.normal(size=(2, 256))
    one, two = one / np.linalg.norm(one), (one + 2 * two) / np.linalg.norm(one + 2 * two)
    body = {"baseline": one.tolist(), "current": two.tolist(), "snr": 6.0, "hour": 7}
    found = app.client.post("/compare", json=body).json()
    similarity = float(one @ two)
    expected = max(0, 1 - similarity - 0.2 * 9 / 15) * (1 - (0.05 + 0.05 * (1 - 0.5 / 1.5)))
    assert found["raw_similarity"] == pytest.approx(similarity, abs=1e-6)
    assert found["score"] == found["normalized"] == pytest.approx(expected, abs=1e-6)
    assert (found["snr"], found["severity"], found["alert_type"]) == (6.0, "high", "emergency")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"baseline": [0.0] * 256, "current": [1.0] * 256}, "not_comparable"),
        ({"baseline": [1.0] * 255, "current": [1.0] * 256}, "not_comparable"),
        ({"baseline": [1.0] * 3, "current": [1.0] * 3}, "not_comparable"),
        ({"baseline": [1.0] * 256, "current": [1.0] * 256, "encoder": "unknown"}, "unknown_encoder"),
    ],
)
def test_vectors_that_cannot_be_compared_are_422(app: Running, body: dict[str, object], code: str) -> None:
    answer = app.client.post("/compare", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_patient_is_enrolled_then_judged_then_alerted(app: Running, patient_id: UUID) -> None:
    answer = app.client.post(
        f"/api/patients/{patient_id}/baseline",
        files=[("file", (file.name, file.read_bytes())) for file in (MONDAY, TUESDAY, WEDNESDAY)],
    )
    assert [result["outcome"] for result in answer.json()["results"]] == ["enrolled"] * 3
    usual = check(app, patient_id, USUAL)
    assert (usual["success"], usual["outcome"], usual["alertType"]) == (True, "scored", None)
    other = check(app, patient_id, OTHER)
    assert (other["rule"], other["verdict"], other["alertType"]) == ("calibrated", "another_voice", "warning")
    assert "did not sound like Ana" in str(other["explanation"])
    log = app.records.row("select * from public.voice_anomaly_logs where id = %s", UUID(str(other["logId"])))
    assert log["anomaly_score"] == other["anomalyScore"] == other["normalizedScore"]
    assert app.records.one("select level from public.caregiver_alerts where patient_id = %s", patient_id) == "warning"


def test_a_recording_without_speech_is_a_success_without_a_score(app: Running, patient_id: UUID) -> None:
    found = check(app, patient_id, SILENCE)
    assert (found["success"], found["outcome"], found["reason"]) == (True, "not_assessable", "no_speech")
    assert [found[name] for name in ("anomalyScore", "rawSimilarity", "normalizedScore", "logId")] == [None] * 4


def test_a_call_is_judged_once_however_often_it_is_asked_for(app: Running, patient_id: UUID) -> None:
    check(app, patient_id, MONDAY)
    call_log_id = app.records.call_log(patient_id)
    first = check(app, patient_id, USUAL, callLogId=str(call_log_id))
    assert check(app, patient_id, USUAL, callLogId=str(call_log_id)) == first
    assert first["callLogId"] == str(call_log_id)
    assert app.records.one("select count(*) from care.checks where call_log_id = %s", call_log_id) == 1


def test_the_same_recording_again_gives_what_was_found_first(app: Running, patient_id: UUID) -> None:
    check(app, patient_id, MONDAY)
    first, again = check(app, patient_id, OTHER), check(app, patient_id, OTHER)
    assert (first["duplicateOf"], again["duplicateOf"]) == (None, first["callLogId"])
    assert again["logId"] == first["logId"] is not None
    assert again["anomalyScore"] == first["anomalyScore"] is not None
    assert (again["success"], again["outcome"], again["severity"]) == (True, "scored", first["severity"])
    logs = app.records.one("select count(*) from public.voice_anomaly_logs where patient_id = %s", patient_id)
    assert logs == 1


def keyed(app: Running, body: Mapping[str, object], idempotency_key: str, key: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": idempotency_key, "X-API-Key": key}
    return app.client.post("/api/anomaly-check", json=body, headers=headers)


def test_the_same_request_with_the_same_key_is_one_call(app: Running, patient_id: UUID) -> None:
    body = {"patientId": str(patient_id), "audioUrl": app.host.offer("monday.flac", MONDAY)}
    first, again = keyed(app, body, "one"), keyed(app, {**body, "channel": None}, "one")
    assert again.json() == first.json()
    assert (first.json()["outcome"], first.json()["duplicateOf"]) == ("enrolled", None)
    assert [a.headers.get("Idempotent-Replayed") for a in (first, again)] == [None, "true"]
    assert app.records.one("select count(*) from public.call_logs where patient_id = %s", patient_id) == 1
    other = keyed(app, body, "two").json()
    assert other["duplicateOf"] == first.json()["callLogId"] != other["callLogId"]


def test_a_key_of_another_request_is_422(app: Running, patient_id: UUID) -> None:
    body = {"patientId": str(patient_id), "audioUrl": app.host.offer("monday.flac", MONDAY)}
    assert keyed(app, body, "reused").status_code == 200
    for more in ({"timestamp": "2026-01-01T12:00:00Z"}, {"patientId": str(app.records.patient())}):
        answer = keyed(app, {**body, **more}, "reused")
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_request_that_is_repeated_while_it_is_worked_on_is_202(app: Running, patient_id: UUID) -> None:
    app.host.answers["broken.flac"] = lambda handler: handler.send_error(503)
    body = {"patientId": str(patient_id), "audioUrl": app.host.address("broken.flac")}
    assert keyed(app, body, "worked-on").status_code == 502
    call_log_id = app.records.one("select id from public.call_logs where patient_id = %s", patient_id)
    app.records.call("open_check", call_log_id, "ge2e-v2", "other", 60)
    answer = keyed(app, body, "worked-on")
    assert (answer.status_code, answer.json()["callLogId"]) == (202, str(call_log_id))
    assert "being judged" in answer.json()["error"]


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "\x7f"])
def test_an_idempotency_key_is_1_to_255_visible_characters(app: Running, patient_id: UUID, key: str) -> None:
    body = {"patientId": str(patient_id), "audioUrl": app.host.address("x")}
    answer = keyed(app, body, key)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert app.records.one("select count(*) from public.call_logs where patient_id = %s", patient_id) == 0


def test_the_same_idempotency_key_of_two_callers_is_two_requests(server: Server) -> None:
    with server.clone(server.migrated_template) as database, running(database) as app:
        for name in ("one", "two"):
            app.service.database.add_api_key(name, ["check"], hash_of(name))
        body = {"patientId": str(app.records.patient()), "audioUrl": app.host.offer("monday.flac", MONDAY)}
        calls = [keyed(app, body, "same", key).json()["callLogId"] for key in ("one", "two", "one")]
        assert calls[0] == calls[2] != calls[1]
        assert app.records.rows("select caller from care.idempotency_keys order by caller") == [
            {"caller": "one"}, {"caller": "two"},
        ]  # fmt: skip


@pytest.mark.parametrize("days", [3, 30_000])
def test_a_call_that_lies_days_ahead_is_400(app: Running, patient_id: UUID, days: int) -> None:
    at = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    body = {"patientId": str(patient_id), "audioUrl": app.host.offer("monday.flac", MONDAY), "timestamp": at}
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "impossible_time")
    assert app.records.one("select count(*) from public.call_logs where patient_id = %s", patient_id) == 0


def test_every_answer_of_a_check_says_whether_it_succeeded_and_what_was_wrong(app: Running, patient_id: UUID) -> None:
    ended = check(app, patient_id, MONDAY)
    assert (ended["success"], ended["error"], ended["explanation"]) == (True, None, None)
    unheard = check(app, patient_id, SILENCE)
    assert (unheard["success"], unheard["error"]) == (True, None)
    assert str(unheard["explanation"]).startswith("No speech was heard.")
    there = {"patientId": str(patient_id), "audioUrl": app.host.address("missing.flac")}
    requests: list[tuple[int, Mapping[str, object]]] = [
        (400, {}), (404, there | {"patientId": str(uuid4())}), (502, there), (400, there | {"audioUrl": "none"}),
    ]  # fmt: skip
    for status, body in requests:
        answer = app.client.post("/api/anomaly-check", json=body)
        found = answer.json()
        assert (answer.status_code, found["success"]) == (status, False)
        assert found["error"] == found["detail"] != ""
    for method, path in (("GET", "/nothing"), ("GET", "/embed")):
        assert app.client.request(method, path).json()["success"] is False


def test_a_check_that_another_worker_holds_is_202(app: Running, patient_id: UUID) -> None:
    call_log_id = app.records.call_log(patient_id)
    app.records.call("open_check", call_log_id, "ge2e-v2", "other", 60)
    body = {"patientId": str(patient_id), "callLogId": str(call_log_id), "audioUrl": app.host.address("x")}
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["outcome"], answer.json()["success"]) == (202, "leased", False)
    assert "being judged" in answer.json()["error"]


def test_a_call_that_is_held_is_a_success_without_a_score(app: Running, patient_id: UUID) -> None:
    app.records.call("flag_patient", patient_id, "flu", "2026-01-01")
    found = check(app, patient_id, MONDAY)
    assert (found["success"], found["outcome"], found["anomalyScore"]) == (True, "held", None)


def test_without_consent_nothing_is_stored(app: Running) -> None:
    patient_id = app.records.patient(consent=False)
    found = check(app, patient_id, MONDAY)
    assert (found["outcome"], found["reason"]) == ("skipped", "no_consent")
    assert app.records.one("select count(*) from voice.embeddings where patient_id = %s", patient_id) == 0


@pytest.mark.parametrize("body", [{}, {"patientId": str(uuid4())}, {"audioUrl": "http://127.0.0.1/x"}])
def test_a_missing_patient_id_or_audio_url_is_400(app: Running, body: dict[str, object]) -> None:
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_patient_or_call_that_does_not_exist_is_404(app: Running, patient_id: UUID) -> None:
    url = app.host.offer("monday.flac", MONDAY)
    answer = app.client.post("/api/anomaly-check", json={"patientId": str(uuid4()), "audioUrl": url})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_patient")
    body = {"patientId": str(patient_id), "callLogId": str(uuid4()), "audioUrl": url}
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_call")


def test_the_call_of_another_patient_is_409(app: Running, patient_id: UUID) -> None:
    call_log_id = app.records.call_log(app.records.patient())
    body = {"patientId": str(patient_id), "callLogId": str(call_log_id), "audioUrl": app.host.address("x")}
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "call_of_another_patient")


@pytest.mark.parametrize(
    "url", ["ftp://example.org/x", "file:///etc/passwd", "http://", "no url", "http://user:secret@127.0.0.1/x",
            "storage:", "storage:voice-recordings/../secrets", "http://[::1", "http://127.0.0.1:99999/x"]
)  # fmt: skip
def test_an_address_that_is_none_is_400(app: Running, patient_id: UUID, url: str) -> None:
    answer = app.client.post("/api/anomaly-check", json={"patientId": str(patient_id), "audioUrl": url})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_recording_reference")
    assert "secret" not in answer.text
    for path, body in (("/embed", {"audio_url": url}), (f"/api/patients/{patient_id}/baseline", {"audioUrls": [url]})):
        assert app.client.post(path, json=body).json()["code"] == "bad_recording_reference"


def test_a_recording_that_is_not_there_is_502_and_its_check_is_dead(app: Running, patient_id: UUID) -> None:
    body = {"patientId": str(patient_id), "audioUrl": app.host.address("missing.flac") + "?token=secret"}
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["code"]) == (502, "recording_not_found")
    assert "secret" not in answer.text
    stored = app.records.row("select state, reason from care.checks where patient_id = %s", patient_id)
    assert stored == {"state": "dead", "reason": "recording_unavailable"}
    errors = app.records.rows("select message from care.check_errors")
    assert errors
    assert not any("secret" in row["message"] for row in errors)


def test_a_host_that_fails_is_502_and_the_check_waits_for_another_try(app: Running, patient_id: UUID) -> None:
    app.host.answers["broken.flac"] = lambda handler: handler.send_error(503)
    body = {"patientId": str(patient_id), "audioUrl": app.host.address("broken.flac")}
    answer = app.client.post("/api/anomaly-check", json=body)
    assert (answer.status_code, answer.json()["code"]) == (502, "recording_unreachable")
    assert app.records.one("select state from care.checks where patient_id = %s", patient_id) == "queued"


def test_one_recording_that_fails_does_not_lose_the_others_of_an_enrolment(app: Running, patient_id: UUID) -> None:
    urls = [app.host.offer("monday.flac", MONDAY), app.host.address("missing.flac"), app.host.offer("t.flac", TUESDAY)]
    answer = app.client.post(f"/api/patients/{patient_id}/baseline", json={"audioUrls": urls})
    results = answer.json()["results"]
    outcomes = [(result["success"], result["outcome"]) for result in results]
    assert [bool(result["error"]) for result in results] == [False, True, False]
    assert outcomes == [(True, "enrolled"), (False, "dead"), (True, "enrolled")]


def test_logs_are_those_of_the_patients_asked_for_newest_first(app: Running, patient_id: UUID) -> None:
    check(app, patient_id, MONDAY, timestamp="2026-01-01T12:00:00Z")
    check(app, patient_id, USUAL, timestamp="2026-01-02T12:00:00Z")
    recent = check(app, patient_id, OTHER)
    logs = app.client.get(f"/api/anomaly-logs/{patient_id}").json()["logs"]
    assert (len(logs), logs[0]["id"]) == (2, recent["logId"])
    for asked in (f"patientIds={patient_id},{uuid4()}", f"patientIds={uuid4()}&patientIds={patient_id}&days=7"):
        found = app.client.get(f"/api/anomaly-logs?{asked}").json()["logs"]
        assert [log["id"] for log in found] == [recent["logId"]]


def test_a_call_is_judged_by_the_hour_at_which_it_was(app: Running, patient_id: UUID) -> None:
    check(app, patient_id, MONDAY)
    check(app, patient_id, OTHER, timestamp="2026-01-02T07:30:00Z")
    [log] = app.client.get(f"/api/anomaly-logs/{patient_id}").json()["logs"]
    assert log["local_hour"] == 7.5
    assert log["anomaly_score"] == pytest.approx(0.9 * log["adjusted_from"])


def test_a_body_larger_than_the_largest_recording_is_413(server: Server) -> None:
    with server.clone(server.migrated_template) as database, running(database, maximum_recording_bytes=10_000) as app:
        answer = app.client.post("/embed", files={"file": ("long.flac", b"x" * 20_000)})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        url = app.host.offer("long.flac", b"x" * 20_000)
        answer = app.client.post("/embed", json={"audio_url": url})
        assert (answer.status_code, answer.json()["code"]) == (413, "recording_too_large")


def test_a_recording_that_dribbles_in_is_given_up(server: Server) -> None:
    def dribble(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.1)

    with server.clone(server.migrated_template) as database, running(database, fetch_seconds=1.0) as app:
        app.host.answers["slow.flac"] = dribble
        begun = time.monotonic()
        answer = app.client.post("/embed", json={"audio_url": app.host.address("slow.flac")})
        assert (answer.status_code, answer.json()["code"]) == (502, "recording_unreachable")
        assert time.monotonic() - begun < 10


def test_the_key_is_asked_for_wherever_there_is_data(server: Server) -> None:
    key = SecretStr("a long random text")
    with server.clone(server.migrated_template) as database, running(database, api_key=key) as app:
        for path in ("/health", "/readyz", "/openapi.json"):
            assert app.client.get(path).status_code == 200
        patient_id = uuid4()
        asked = [("GET", f"/api/anomaly-logs/{patient_id}"), ("GET", f"/api/anomaly-logs?patientIds={patient_id}")]
        asked += [("GET", "/metrics"), ("POST", "/wake")]
        asked += [
            ("POST", path)
            for path in ("/embed", "/compare", "/api/anomaly-check", f"/api/patients/{patient_id}/baseline")
        ]
        for method, path in asked:
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"X-API-Key": "ä"},
                {"Authorization": "Bearer"},
                {"X-API-Key": "a long"},
                {"Authorization": "Basic a long random text"},
            ):
                answer = app.client.request(
                    method, path, headers=[(k.encode(), v.encode()) for k, v in headers.items()]
                )
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
        for headers in (
            {"Authorization": "Bearer a long random text"},
            {"X-API-Key": "a long random text"},
            {"apikey": "a long random text"},
        ):
            assert app.client.get(asked[0][1], headers=headers).json() == {"logs": []}


def test_browsers_of_named_origins_may_call_and_never_with_credentials(server: Server) -> None:
    origins = {"cors_origins": "https://care.example, https://other.example"}
    with server.clone(server.migrated_template) as database, running(database, **origins) as app:
        named = app.client.get("/health", headers={"Origin": "https://care.example"})
        assert named.headers["access-control-allow-origin"] == "https://care.example"
        assert "access-control-allow-credentials" not in named.headers
        stranger = app.client.get("/health", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


def test_what_the_documents_promise_is_in_openapi(app: Running) -> None:
    paths = app.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/health",
        "/readyz",
        "/metrics",
        "/wake",
        "/embed",
        "/compare",
        "/api/anomaly-check",
        "/api/patients/{patient_id}/baseline",
        "/api/anomaly-logs/{patient_id}",
        "/api/anomaly-logs",
    }
    for methods in paths.values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert "application/problem+json" in operation["responses"]["4XX"]["content"]


def test_an_unknown_path_and_a_wrong_method_are_problems_too(app: Running) -> None:
    assert app.client.get("/nothing").json()["code"] == "not_found"
    wrong = app.client.get("/embed")
    assert (wrong.json()["code"], wrong.headers["allow"]) == ("method_not_allowed", "POST")


@pytest.mark.parametrize("kind", ["postgres", "nothing"])
def test_a_database_that_is_away_is_503_and_the_process_lives_on(server: Server, kind: str) -> None:
    with server.clone(server.migrated_template) as database, running(database) as app:
        patient_id = app.records.patient()
        if kind == "postgres":
            app.records.do("revoke usage on schema care, voice from retrocare_service")
        else:
            app.service.database._pool.close()
        answer = app.client.get(f"/api/anomaly-logs/{patient_id}")
        assert answer.status_code == 503
        assert answer.json()["code"] == ("not_migrated" if kind == "postgres" else "database_unavailable")
        assert app.client.get("/health").status_code == 200
