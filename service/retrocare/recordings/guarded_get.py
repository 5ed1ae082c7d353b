"""A GET that cannot be led to another host (SSRF), and that is bounded in time and size.

A host is resolved once. Every address must be public, and the connection goes to exactly those addresses, while SNI,
certificate and Host header keep the name. No proxy, cookie or credential is used. An error says what was wrong, but
never an IP address, a query string or a body; ``refusal`` is the reason in one word, for counting.
"""

from __future__ import annotations

import io
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urljoin

import httpcore

from retrocare.errors import FetchFailed, TooLarge
from retrocare.recordings.addresses import Url, check_allowed, how_to_allow, is_public, parse_url
from retrocare.settings import Settings

Resolver = Callable[[str], Iterable[str]]  # a host's name -> its addresses; raises OSError where there are none
Headers = Sequence[tuple[bytes, bytes]]

MOST_REDIRECTS = 3
SILENCE_SECONDS = 10.0  # the longest wait for an address, a connection, or the next bytes
HEADERS = [(b"User-Agent", b"retrocare-voice"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"identity")]
FRAMING_BYTES = 1_000_000  # headers, chunk sizes and redirects may take this much beside the recording

for _name in ("httpcore", "httpx"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at lower levels they log URLs with their query strings


def system_resolver(host: str) -> list[str]:
    """Resolve a host by the operating system."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


@cache
def _trusted() -> ssl.SSLContext:
    return httpcore.default_ssl_context()


@dataclass(frozen=True)
class Network:
    """How hosts are resolved and connected to, and which certificates are trusted."""

    resolve: Resolver = system_resolver
    backend: httpcore.NetworkBackend = field(default_factory=httpcore.SyncBackend)
    ssl_context: ssl.SSLContext | None = None


INTERNET = Network()


class FetchBudget:
    """How many seconds and bytes one fetch may still take."""

    def __init__(self, settings: Settings) -> None:
        self.seconds, self.bytes, self._received = settings.fetch_seconds, settings.maximum_recording_bytes, 0
        self._end = time.monotonic() + self.seconds

    def wait(self) -> float:
        """Return how long the next step may take. Raises: FetchFailed where no time is left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchFailed(f"The recording did not arrive within {self.seconds:g} s")
        return min(left, SILENCE_SECONDS)

    def count(self, received: int) -> None:
        self._received += received
        if self._received > self.bytes + FRAMING_BYTES:
            raise too_large(self.bytes)


def get(url: str, settings: Settings, network: Network = INTERNET) -> bytes:
    """Return the bytes behind a URL.

    Raises: FetchFailed, with a ``refusal`` where the URL or what it leads to is not allowed; TooLarge.
    """
    budget, wanted = FetchBudget(settings), parse_url(url)
    for hop in range(MOST_REDIRECTS + 1):
        is_private = check_allowed(wanted, settings, is_redirected=hop > 0)
        addresses = resolve(wanted.host, budget, network)
        if not is_private and not all(is_public(address) for address in addresses):
            told = "The recording's host has an address that is not public"
            hint = f"If it is meant to: {how_to_allow(wanted, settings, is_host=True)}" if hop == 0 else ""
            raise FetchFailed(told, hint, refusal="address")
        headers = [(b"Host", wanted.authority.encode()), *HEADERS]
        with send_get(wanted, headers, addresses, budget, network) as response:
            location = b"".join(_header(response, b"location"))
            if response.status not in (301, 302, 303, 307, 308) or not location:
                check_status(response.status)
                return read(response, budget)
        wanted = _redirected(wanted, location)
    raise FetchFailed(f"More than {MOST_REDIRECTS} redirects", refusal="redirect")


def resolve(host: str, budget: FetchBudget, network: Network) -> list[str]:
    """Return the host's addresses; a resolver that hangs is abandoned.

    Raises: FetchFailed.
    """
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(dict.fromkeys(network.resolve(host))))
        except (OSError, ValueError):
            answers.put([])

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        found = answers.get(timeout=budget.wait())
    except queue.Empty:
        found = []
    if not found:
        raise FetchFailed("The recording's host has no address")
    return found


@contextmanager
def send_get(
    url: Url, headers: Headers, addresses: list[str], budget: FetchBudget, network: Network
) -> Iterator[httpcore.Response]:
    """Send one GET to one of the addresses; yield the response with its body unread.

    Raises: FetchFailed for every network error inside the block.
    """
    wanted = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
    pinned = _Pinned(addresses, budget, network.backend)
    try:
        with (
            httpcore.ConnectionPool(network.ssl_context or _trusted(), network_backend=pinned) as pool,
            pool.stream("GET", wanted, headers=headers) as response,
        ):
            yield response
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        is_impostor = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args)
        why = "invalid certificate" if is_impostor else type(error).__name__
        raise FetchFailed(f"The recording's host did not answer ({why})") from None


def read(response: httpcore.Response, budget: FetchBudget) -> bytes:
    """Return the body as it was sent. Raises: FetchFailed with refusal encoding, TooLarge."""
    if any(encoding.strip().lower() != b"identity" for encoding in _header(response, b"content-encoding")):
        raise FetchFailed("The recording came compressed, which was not asked for", refusal="encoding")
    if any(int(length) > budget.bytes for length in _header(response, b"content-length")):
        raise too_large(budget.bytes)
    body = io.BytesIO()
    for chunk in response.iter_stream():
        body.write(chunk)
        if body.tell() > budget.bytes:
            raise too_large(budget.bytes)
    return body.getvalue()


def check_status(status: int) -> None:
    """Raise FetchFailed for every status but 200: 206 would be a part of a recording."""
    if status in (404, 410):
        raise FetchFailed("There is no recording at that address", code="recording_not_found", is_permanent=True)
    if status in (400, 401, 403):
        raise FetchFailed(f"The recording's host refused ({status})", code="recording_refused", is_permanent=True)
    if status != 200:
        raise FetchFailed(f"The recording's host answered {status}")


def too_large(most: int) -> TooLarge:
    hint = "RETROCARE_MAXIMUM_RECORDING_BYTES is the limit."
    return TooLarge(f"The recording is larger than {most:,} bytes", hint, code="recording_too_large")


def _redirected(url: Url, location: bytes) -> Url:
    try:
        found = parse_url(urljoin(str(url), location.decode("ascii")))
    except ValueError:
        raise FetchFailed("The redirect leads nowhere", refusal="redirect") from None
    if (url.scheme, found.scheme) == ("https", "http"):
        raise FetchFailed("A redirect leads from https to http", refusal="downgrade")
    return found


def _header(response: httpcore.Response, name: bytes) -> list[bytes]:
    return [value for key, value in response.headers if key.lower() == name]


class _Pinned(httpcore.NetworkBackend):
    """Connect only to the addresses that were checked, whatever host the client asks for."""

    def __init__(self, addresses: list[str], budget: FetchBudget, backend: httpcore.NetworkBackend) -> None:
        self._addresses, self._budget, self._backend = addresses, budget, backend

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        for address in self._addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connect(address, port)
        return self._connect(self._addresses[-1], port)

    def _connect(self, address: str, port: int) -> httpcore.NetworkStream:
        return _Limited(self._backend.connect_tcp(address, port, self._budget.wait()), self._budget)


class _Limited(httpcore.NetworkStream):
    """Bound every read and write by the budget, whatever time-out the client asks for."""

    def __init__(self, stream: httpcore.NetworkStream, budget: FetchBudget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        received = self._stream.read(max_bytes, self._budget.wait())
        self._budget.count(len(received))
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._budget.wait())

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Limited(self._stream.start_tls(ssl_context, server_hostname, self._budget.wait()), self._budget)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
