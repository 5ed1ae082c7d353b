"""The guarded GET: what is refused, how fast, that nobody is reached by it, and what works. All of it on loopback."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures import ssrf
from fixtures.listeners import (
    AGAIN,
    AT_ONCE_SECONDS,
    HELLO,
    SHORT_SECONDS,
    SOON_SECONDS,
    Authority,
    Canary,
    Listener,
    Rerouted,
    listening,
    named,
    refused,
    settings,
)  # fmt: skip
from fixtures.ssrf import PUBLIC, PUBLIC_6, Case
from retrocare.errors import FetchFailed
from retrocare.recordings.addresses import is_public
from retrocare.recordings.guarded_get import INTERNET, FetchBudget, Network, get


def says(*answers: str) -> Callable[[str], list[str]]:
    return lambda host: list(answers)


def literal_or_loopback(host: str) -> list[str]:
    """Resolve without a name server: a literal is itself, every name is this machine."""
    return [host] if host[0].isdigit() or ":" in host else ["127.0.0.1"]


@pytest.fixture
def canary() -> Iterator[Canary]:
    found = Canary()
    yield found
    assert not found.was_reached()
    found.close()


@pytest.fixture
def host() -> Iterator[Listener]:
    with listening() as found:
        yield found


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("case", ssrf.ADDRESSES, ids=lambda case: f"{case.refusal} {case.url[:60]!a}")
def test_an_address_that_is_not_allowed_is_refused_at_once_and_nobody_is_reached(case: Case, canary: Canary) -> None:
    network = Network(says(*case.answers), Rerouted(canary.port))
    failure = refused(lambda: get(case.url, settings(**case.settings), network), AT_ONCE_SECONDS)
    assert isinstance(failure, FetchFailed)
    assert (failure.refusal, failure.code, failure.status) == (case.refusal, "recording_refused", 403)
    assert failure.is_permanent
    for said in (*case.answers, "secret", "docker"):
        assert said in case.url or said not in f"{failure}{failure.hint}"


@pytest.mark.parametrize("location", ssrf.REDIRECTS, ids=lambda location: f"{location[:60]!a}")
def test_a_redirect_is_checked_as_if_it_had_been_asked_for(location: str, host: Listener, canary: Canary) -> None:
    target = location.replace("{canary}", str(canary.port))
    host.answers["/"] = AGAIN.replace(b"/redirect-again", target.encode())
    network = Network(literal_or_loopback)
    failure = refused(lambda: get(f"http://127.0.0.1:{host.port}/", named(host), network), SOON_SECONDS)
    assert isinstance(failure, FetchFailed)
    assert (failure.refusal, failure.code) == (ssrf.REDIRECTS[location], "recording_refused")
    assert len(host.requests) <= 4


@pytest.mark.parametrize("name", ssrf.HOSTILE)
def test_a_hostile_answer_is_given_up_soon_and_never_judged(name: str, host: Listener) -> None:
    host.answers["/"], expected = ssrf.HOSTILE[name]
    limits = named(host, fetch_seconds=SHORT_SECONDS) if expected == ssrf.FAILED else named(host)
    failure = refused(lambda: get(f"http://127.0.0.1:{host.port}/", limits), SOON_SECONDS)
    refusal = getattr(failure, "refusal", "")
    assert expected == (refusal or failure.code)
    assert failure.is_permanent == (expected != ssrf.FAILED)
    assert failure.status == (403 if refusal else 413 if expected == ssrf.TOO_LARGE else 502)


@pytest.mark.parametrize("address", ssrf.EDGES_OF_PUBLIC.split())
def test_what_lies_beside_the_refused_ranges_is_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_what_we_call_public_python_calls_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    stands_for = getattr(address, "ipv4_mapped", None) or address
    if is_public(str(address)) and stands_for not in ipaddress.ip_network("64:ff9b::/96"):
        assert stands_for.is_global
        assert not stands_for.is_multicast


def test_answers_of_every_honest_form_are_taken(host: Listener) -> None:
    forms = {
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n",
        "HTTP 1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
        "identity": HELLO.replace(b"\r\n\r\n", b"\r\nContent-Encoding: Identity\r\n\r\n"),
        "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO,
        "more than its length": HELLO + b" and what was never announced",
        "exactly the largest": b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * ssrf.MAXIMUM_BYTES,
    }
    for name, form in forms.items():
        host.answers["/"] = form
        expected = b"a" * ssrf.MAXIMUM_BYTES if name == "exactly the largest" else b"hello"
        assert get(f"http://127.0.0.1:{host.port}/", named(host)) == expected, name


def test_three_redirects_are_followed_without_cookies_and_the_fourth_is_not(host: Listener) -> None:
    for step in (1, 2, 3, 4):
        location = f"/{step - 1}" if step > 1 else "hello"
        host.answers[f"/{step}"] = AGAIN.replace(b"/redirect-again", location.encode() + b"\r\nSet-Cookie: a=b")
    assert get(f"http://127.0.0.1:{host.port}/3", named(host)) == b"hello"
    assert not any(b"cookie" in request.lower() for request in host.requests)
    with pytest.raises(FetchFailed) as caught:
        get(f"http://127.0.0.1:{host.port}/4", named(host))
    assert caught.value.refusal == "redirect"


def test_a_redirect_leads_to_allowed_hosts_only(host: Listener) -> None:
    host.answers["/"] = AGAIN.replace(b"/redirect-again", b"https://evil.example/?token=secret")
    only = settings(fetch_hosts="allowed.example", fetch_private_hosts=f"127.0.0.1:{host.port}")
    with pytest.raises(FetchFailed) as caught:
        get(f"http://127.0.0.1:{host.port}/", only)
    assert caught.value.refusal == "host"
    assert "secret" not in str(caught.value)


def test_a_public_host_is_asked_at_the_resolved_address_under_its_own_name(
    authority: Authority, tmp_path: Path
) -> None:
    with listening(authority.serving("recordings.example", tmp_path)) as host:
        host.answers["/a?b"] = HELLO
        network = Network(says(PUBLIC), Rerouted(host.port), authority.trusted())
        for pattern in ("recordings.example", "other.example, *.EXAMPLE", "*"):
            assert get("https://Recordings.Example./a?b", settings(fetch_hosts=pattern), network) == b"hello"
        own = settings(supabase_url="https://recordings.example")
        assert get("https://recordings.example:443/a?b", own, network) == b"hello"
        assert isinstance(network.backend, Rerouted)
        assert network.backend.connections == [(PUBLIC, 443)] * 4
        assert host.names == ["recordings.example"] * 4
        assert all(b"\r\nHost: recordings.example\r\n" in request for request in host.requests)


@pytest.mark.parametrize(
    "what", ["another name", "an unknown authority", "nobody's authority", "a certificate of last week", "no TLS"]
)
def test_a_host_that_cannot_show_who_it_is_gets_no_request(what: str, authority: Authority, tmp_path: Path) -> None:
    signer = Authority() if what == "an unknown authority" else authority
    name = "other.example" if what == "another name" else "recordings.example"
    serving = signer.serving(name, tmp_path, days=-2 if what == "a certificate of last week" else 1)
    with listening(None if what == "no TLS" else serving) as host:
        trusted = INTERNET.ssl_context if what == "nobody's authority" else authority.trusted()
        network = Network(says(PUBLIC), Rerouted(host.port), trusted)
        allowed = settings(fetch_hosts="*", fetch_seconds=SHORT_SECONDS if what == "no TLS" else 20.0)
        with pytest.raises(FetchFailed) as caught:
            get("https://recordings.example/", allowed, network)
        assert (caught.value.code, caught.value.status) == ("recording_unreachable", 502)
        assert ("invalid certificate" in str(caught.value)) == (what != "no TLS")
        assert host.requests == []


def test_a_redirect_from_https_to_http_is_refused(authority: Authority, tmp_path: Path) -> None:
    with listening(authority.serving("recordings.example", tmp_path)) as host:
        host.answers["/"] = AGAIN.replace(b"/redirect-again", b"http://recordings.example/hello")
        network = Network(says(PUBLIC), Rerouted(host.port), authority.trusted())
        with pytest.raises(FetchFailed) as caught:
            get("https://recordings.example/", settings(fetch_hosts="*", fetch_allow_http=True), network)
        assert caught.value.refusal == "downgrade"
        assert len(host.requests) == 1


def test_a_tls_handshake_that_never_ends_is_given_up(canary: Canary) -> None:
    network = Network(says(PUBLIC), Rerouted(canary.port))
    short = settings(fetch_hosts="*", fetch_seconds=SHORT_SECONDS)
    failure = refused(lambda: get("https://recordings.example/", short, network), SOON_SECONDS)
    assert failure.code == "recording_unreachable"
    assert canary.was_reached()


def test_a_body_that_dribbles_over_tls_is_given_up(authority: Authority, tmp_path: Path) -> None:
    with listening(authority.serving("recordings.example", tmp_path)) as host:
        host.answers["/"] = ssrf.HOSTILE["a dribbling body"][0]
        network = Network(says(PUBLIC), Rerouted(host.port), authority.trusted())
        short = settings(fetch_hosts="*", fetch_seconds=1.0)
        assert refused(lambda: get("https://recordings.example/", short, network), 10).code == "recording_unreachable"
        assert len(host.requests) == 1


@pytest.mark.parametrize(("first", "then", "expected"), [(PUBLIC, "127.0.0.1", b"hello"), ("127.0.0.1", PUBLIC, None)])
def test_a_name_is_resolved_once_and_its_first_answer_holds(
    first: str, then: str, expected: bytes | None, host: Listener
) -> None:
    asked: list[str] = []

    def rebinding(name: str) -> list[str]:
        asked.append(name)
        return [first] if len(asked) == 1 else [then]

    backend = Rerouted(host.port)
    allowed = settings(fetch_hosts="*", fetch_allow_http=True)
    if expected:
        assert get("http://rebinding.example/", allowed, Network(rebinding, backend)) == expected
        assert backend.connections == [(PUBLIC, 80)]
    else:
        with pytest.raises(FetchFailed) as caught:
            get("http://rebinding.example/", allowed, Network(rebinding, backend))
        assert (caught.value.refusal, backend.connections) == ("address", [])
    assert asked == ["rebinding.example"]


def test_a_name_that_changes_between_two_redirects_is_refused(host: Listener) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    backend = Rerouted(host.port)
    with pytest.raises(FetchFailed) as caught:
        get(
            "http://rebinding.example/redirect-again",
            settings(fetch_hosts="*", fetch_allow_http=True),
            Network(lambda name: next(answers), backend),
        )
    assert (caught.value.refusal, backend.connections) == ("address", [(PUBLIC, 80)])


def test_the_next_address_is_tried_where_one_does_not_answer(host: Listener) -> None:
    backend = Rerouted(host.port, refusing=(PUBLIC_6,))
    allowed = settings(fetch_hosts="*", fetch_allow_http=True)
    assert get("http://two.example/", allowed, Network(says(PUBLIC_6, PUBLIC_6, PUBLIC), backend)) == b"hello"
    assert backend.connections == [(PUBLIC_6, 80), (PUBLIC, 80)]
    failure = refused(lambda: get("http://one.example/", allowed, Network(says(PUBLIC_6), backend)), AT_ONCE_SECONDS)
    assert (failure.code, failure.is_permanent) == ("recording_unreachable", False)


def test_a_name_server_that_hangs_or_fails_is_a_failure_that_passes() -> None:
    end = threading.Event()

    def hanging(name: str) -> list[str]:
        end.wait(30)
        return [PUBLIC]

    def failing(name: str) -> list[str]:
        raise socket.gaierror

    short = settings(fetch_hosts="*", fetch_seconds=SHORT_SECONDS)
    for resolve in (hanging, failing, says()):
        work = partial(get, "https://a.example/", short, Network(resolve))
        failure = refused(work, SOON_SECONDS)
        assert (failure.code, failure.is_permanent) == ("recording_unreachable", False)
    end.set()


def test_an_ipv6_address_keeps_its_brackets(host: Listener) -> None:
    network = Network(says("::1"), Rerouted(host.port))
    for named_as, asked in (("[::1]:8080", "[::1]:8080"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")):
        assert get(f"http://{asked}/", settings(fetch_private_hosts=named_as), network) == b"hello"
        assert f"\r\nHost: {asked}\r\n".encode() in host.requests[-1]


def test_no_single_step_waits_longer_than_ten_seconds_or_the_time_that_is_left() -> None:
    assert FetchBudget(settings(fetch_seconds=60)).wait() == 10
    assert 0 < FetchBudget(settings(fetch_seconds=5)).wait() <= 5
    over = FetchBudget(settings(fetch_seconds=0.001))
    time.sleep(0.01)
    assert refused(over.wait, AT_ONCE_SECONDS).code == "recording_unreachable"


def test_neither_proxies_nor_logs_learn_of_a_fetch(
    host: Listener, canary: Canary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    host.answers["/?token=secret"] = HELLO
    host.answers["/"] = AGAIN.replace(b"/redirect-again", b"/?token=secret")
    with caplog.at_level(logging.DEBUG):
        assert get(f"http://127.0.0.1:{host.port}/", named(host)) == b"hello"
    assert "secret" not in caplog.text
