"""What the address of a refused recording is answered with: the setting that would allow it, given those set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.listeners import settings
from fixtures.running import RecordingHost, recording_host
from retrocare.errors import FetchFailed
from retrocare.recordings.fetch import fetch
from retrocare.recordings.guarded_get import Network, get

NAME, LOCAL = "recordings.example", "127.0.0.1:9000"
ONE = {"fetch_hosts": NAME}


@pytest.fixture
def recordings() -> Iterator[RecordingHost]:
    with recording_host() as found:
        yield found


@pytest.mark.parametrize(
    ("url", "known", "refusal", "hint"),
    [
        (f"https://{NAME}/a", {}, "host", f"Set RETROCARE_FETCH_HOSTS={NAME}."),
        (f"https://{NAME}/a", {"fetch_hosts": "other.example"}, "host", f"Add {NAME} to RETROCARE_FETCH_HOSTS."),
        (f"http://{LOCAL}/a", {}, "scheme", f"Set RETROCARE_FETCH_PRIVATE_HOSTS={LOCAL}."),
        (f"http://{LOCAL}/a", {"fetch_private_hosts": "127.0.0.1:1"}, "scheme",
         f"Add {LOCAL} to RETROCARE_FETCH_PRIVATE_HOSTS."),
        (f"http://{LOCAL}/a", {"fetch_hosts": "127.0.0.1"}, "scheme", f"Set RETROCARE_FETCH_PRIVATE_HOSTS={LOCAL}."),
        (f"http://{LOCAL}/a", {"fetch_hosts": "127.0.0.1", "fetch_allow_http": True}, "port",
         f"Set RETROCARE_FETCH_PRIVATE_HOSTS={LOCAL}."),
        ("https://[fd00::1]/a", {"fetch_hosts": "*"}, "address", "RETROCARE_FETCH_PRIVATE_HOSTS=[fd00::1]:443."),
        (f"https://{NAME}:8443/a", ONE, "port", f"Set RETROCARE_FETCH_PRIVATE_HOSTS={NAME}:8443."),
        (f"https://{NAME}:8443/a", {}, "host", f"Set RETROCARE_FETCH_PRIVATE_HOSTS={NAME}:8443."),
        (f"http://{NAME}/a", ONE, "scheme", "Give an https URL, or set RETROCARE_FETCH_ALLOW_HTTP=true."),
        (f"https://{NAME}/a", ONE, "address", f"Set RETROCARE_FETCH_PRIVATE_HOSTS={NAME}:443."),
        ("http://minio/a", {}, "scheme", "Set RETROCARE_FETCH_PRIVATE_HOSTS=minio:80."),
        ("storage:calls/a.wav", {}, "bucket", "set SUPABASE_STORAGE_BUCKET=calls."),
    ],
)  # fmt: skip
def test_a_refusal_names_the_setting_that_would_allow_the_recording(
    url: str, known: dict[str, Any], refusal: str, hint: str
) -> None:
    allowed, private = settings(**known), Network(resolve=lambda host: ["10.0.0.7"])
    with pytest.raises(FetchFailed) as refused:
        fetch(url, allowed) if url.startswith("storage:") else get(url + "?token=secret", allowed, private)
    assert (refused.value.refusal, refused.value.status) == (refusal, 403)
    assert hint in refused.value.hint
    told = f"{refused.value} {refused.value.hint}"
    assert not any(kept in told for kept in ("secret", "10.0.0.7", "other.example"))


def test_a_host_of_supabase_is_named_again_where_others_are_named() -> None:
    with pytest.raises(FetchFailed) as refused:
        get(f"https://{NAME}/a", settings(supabase_url="https://project.supabase.co"))
    assert "Name the host of SUPABASE_URL there as well" in refused.value.hint


@pytest.mark.parametrize("hint", ["Set", "Add"])
def test_what_a_hint_says_is_enough(recordings: RecordingHost, hint: str) -> None:
    known: dict[str, Any] = {"fetch_private_hosts": "127.0.0.1:1"} if hint == "Add" else {}
    url = recordings.offer("call.wav", b"sound")
    with pytest.raises(FetchFailed) as refused:
        get(url, settings(**known))
    assert refused.value.hint.startswith(hint)
    host = refused.value.hint.split("=")[-1].removesuffix(".") if hint == "Set" else refused.value.hint.split()[1]
    named = ",".join([*known.values(), host])
    assert get(url, settings(fetch_private_hosts=named)) == b"sound"
