"""Recordings by reference: URLs, objects of Storage, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from fixtures import ssrf
from fixtures.databases import Database
from fixtures.listeners import AGAIN, HELLO, SHORT_SECONDS, SOON_SECONDS, Listener, listening, refused, settings
from fixtures.running import running
from fixtures.storage import BUCKET, KEY, Storage, storage
from retrocare.errors import BadRequest, FetchFailed, TooLarge
from retrocare.recordings.fetch import Recording, check_reference, fetch, read_file, storage_client
from retrocare.settings import Settings


@pytest.fixture
def host() -> Iterator[Listener]:
    with listening() as found:
        yield found


def test_the_routes_say_that_an_address_is_not_allowed_and_the_check_is_dead(database: Database) -> None:
    with running(database) as app:
        url = "https://10.0.0.1/a.wav?token=secret"
        patient_id = app.records.patient()
        by_url = app.client.post("/embed", json={"audio_url": url})
        checked = app.client.post("/api/anomaly-check", json={"patientId": str(patient_id), "audioUrl": url})
        for answer in (by_url, checked):
            assert (answer.status_code, answer.json()["code"]) == (403, "recording_refused")
            assert "secret" not in answer.text
        assert app.records.row("select state, reason from care.checks where patient_id = %s", patient_id) == {
            "state": "dead",
            "reason": "recording_unavailable",
        }


def test_a_host_that_is_named_as_private_is_asked_and_its_content_type_is_not_believed(host: Listener) -> None:
    host.answers["/a%0d%0ab?token=1&x=<>"] = HELLO.replace(b"\r\n\r\n", b"\r\nContent-Type: text/html\r\n\r\n")
    address = f"127.0.0.1:{host.port}"
    allowed = settings(fetch_private_hosts=f"other.example, {address}")
    assert fetch(f"HTTP://{address}/a%0d%0ab?token=1&x=<>#fragment", allowed) == b"hello"
    assert Recording(f"http://{address}/hello").read(allowed) == b"hello"
    headers = f"Host: {address}\r\nUser-Agent: retrocare-voice\r\nAccept: */*\r\nAccept-Encoding: identity"
    assert host.requests[0] == f"GET /a%0d%0ab?token=1&x=<> HTTP/1.1\r\n{headers}\r\n\r\n".encode()


def test_a_reference_that_is_none_is_a_bad_request_and_one_that_is_not_allowed_is_none_yet() -> None:
    malformed = f"{ssrf.OTHER_SCHEMES} {ssrf.CREDENTIALS} {ssrf.HOSTS} {ssrf.NO_PORTS}".split()
    for url in (*malformed, *ssrf.CHARACTERS):
        with pytest.raises(BadRequest) as bad:
            check_reference(url)
        assert (bad.value.code, bad.value.status) == ("bad_recording_reference", 400)
    assert check_reference("http://10.0.0.1:99/a?b=c#d") == "http://10.0.0.1:99/a?b=c#d"


@pytest.mark.parametrize("path", ["", "a", "/a", "a/", "a//b", "a/../b", "a/..", "../a/b", "a/./b", "./a", "a/%2e%2e/b",
                                  "a/b\0", "a/b\r\nX: y", "a/b\\c", "a/\x85", "a/\ud800", "a/" + "b" * 1_024]
)  # fmt: skip
def test_a_storage_path_that_could_mean_another_is_refused(path: str) -> None:
    with pytest.raises(BadRequest) as bad:
        check_reference(f"storage:{path}")
    assert bad.value.code == "bad_recording_reference"
    with pytest.raises(FetchFailed) as caught:
        fetch(f"storage:{path}", settings())
    assert (caught.value.refusal, caught.value.status) == ("path", 403)


@pytest.fixture
def project() -> Iterator[Storage]:
    with storage() as found:
        yield found


def of(project: Storage, **values: object) -> Settings:
    return settings(supabase_url=project.url, supabase_secret_key=SecretStr(KEY), **values)


def test_an_object_of_the_bucket_is_read_with_the_projects_key(project: Storage) -> None:
    for path in ("a.wav", "2026/11/a call's (first) part, é?#&=+ .wav"):
        project.store(path, b"hello")
        assert fetch(f"storage:{BUCKET}/{path}", of(project)) == b"hello"
    assert storage_client(of(project)) is storage_client(of(project))
    with pytest.raises(FetchFailed) as caught:
        fetch(f"storage:{BUCKET}/a.wav", of(project).model_copy(update={"supabase_secret_key": SecretStr("wrong")}))
    assert (caught.value.code, caught.value.is_permanent, caught.value.refusal) == ("recording_refused", True, "")


def test_an_object_of_another_bucket_is_refused_and_storage_must_be_configured(project: Storage) -> None:
    with pytest.raises(FetchFailed) as caught:
        fetch("storage:secrets/a.wav", of(project))
    assert (caught.value.refusal, caught.value.status) == ("bucket", 403)
    with pytest.raises(FetchFailed) as caught:
        fetch(f"storage:{BUCKET}/a.wav", settings())
    assert (caught.value.code, caught.value.is_permanent) == ("storage_not_configured", False)


@pytest.mark.parametrize(
    ("http_status", "status", "error", "code"),
    [
        (400, "404", "not_found", "recording_not_found"),
        (400, "404", "Bucket not found", "recording_not_found"),
        (400, "403", "Unauthorized", "recording_refused"),
        (500, "500", "internal", "recording_unreachable"),
        (544, "544", "DatabaseTimeout", "recording_unreachable"),
        (400, "200", "odd", "recording_unreachable"),
        (400, "none", "odd", "recording_unreachable"),
    ],
)
def test_the_errors_of_storage_are_told_apart(
    project: Storage, http_status: int, status: str, error: str, code: str
) -> None:
    project.refuse("a.wav", http_status, status, error, "of 10.0.0.1")
    with pytest.raises(FetchFailed) as caught:
        fetch(f"storage:{BUCKET}/a.wav", of(project))
    assert (caught.value.code, caught.value.status) == (code, 502)
    assert "10.0.0.1" not in str(caught.value)


def test_storage_is_held_to_the_same_limits(project: Storage, host: Listener) -> None:
    project.store("long.wav", b"a" * (ssrf.MAXIMUM_BYTES + 1))
    with pytest.raises(TooLarge):
        fetch(f"storage:{BUCKET}/long.wav", of(project))
    own = {"supabase_url": f"http://127.0.0.1:{host.port}", "supabase_secret_key": SecretStr(KEY)}
    slow = settings(**own, fetch_seconds=SHORT_SECONDS)
    route = f"/storage/v1/object/{BUCKET}/a.wav"
    for name in ("a dribbling body", "slow loris", "nothing", "a redirect to nowhere", "a length longer than the body"):
        host.answers[route] = ssrf.HOSTILE[name][0]
        failure = refused(lambda: fetch(f"storage:{BUCKET}/a.wav", slow), SOON_SECONDS)
        assert failure.code == "recording_unreachable", name
    host.answers[route] = AGAIN.replace(b"/redirect-again", b"/hello")
    assert refused(lambda: fetch(f"storage:{BUCKET}/a.wav", slow), SOON_SECONDS).code == "recording_unreachable"
    assert len(host.requests) == 6
    assert b"\r\naccept-encoding: identity\r\n" in host.requests[0].lower()


def test_a_file_is_read_up_to_the_largest_size(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"a" * ssrf.MAXIMUM_BYTES)
    assert read_file(file, settings()) == file.read_bytes()
    file.write_bytes(b"a" * (ssrf.MAXIMUM_BYTES + 1))
    with pytest.raises(TooLarge):
        read_file(file, settings())
    with pytest.raises(BadRequest):
        read_file(tmp_path / "missing.wav", settings())
