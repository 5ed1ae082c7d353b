"""Listeners on loopback: a host that answers as it is told, a canary that nobody may reach, certificates for a day."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retrocare.errors import FetchFailed, TooLarge
from retrocare.settings import Settings
from ssrf import MAXIMUM_BYTES

Behaviour = Callable[[socket.socket], None]

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
AGAIN = b"HTTP/1.1 302 Found\r\nLocation: /redirect-again\r\nContent-Length: 0\r\n\r\n"
AT_ONCE_SECONDS = 1.0  # a hundred times what is needed
SHORT_SECONDS = 0.5  # what a fetch may take where it is to be given up
SOON_SECONDS = 10 * SHORT_SECONDS


def settings(**values: object) -> Settings:
    """Give settings that depend on nothing around the test."""
    limits = {"fetch_seconds": 20.0, "maximum_recording_bytes": MAXIMUM_BYTES}
    return Settings.model_construct(**{**limits, **values})  # type: ignore[arg-type]


def named(host: Listener, **values: object) -> Settings:
    """Give settings that name a listener as private, and allow every public host."""
    return settings(fetch_hosts="*", fetch_allow_http=True, fetch_private_hosts=f"127.0.0.1:{host.port}", **values)


def refused(work: Callable[[], object], within: float) -> FetchFailed | TooLarge:
    """Return how the work fails, which it does within so many seconds."""
    begun = time.monotonic()
    with pytest.raises((FetchFailed, TooLarge)) as caught:
        work()
    assert time.monotonic() - begun < within
    assert isinstance(caught.value, (FetchFailed, TooLarge))
    return caught.value


@dataclass
class Listener:
    """Answers by path, and what was asked: the requests as they came, and the names that TLS was asked for."""

    port: int = 0
    answers: dict[str, bytes | Behaviour] = field(
        default_factory=lambda: {"/": HELLO, "/hello": HELLO, "/redirect-again": AGAIN}
    )
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)

    def answer(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            received = connection.recv(65_536)
            if not received:
                return
            request += received
        self.requests.append(request)
        answer = self.answers[request.split(b" ")[1].decode()]
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection)


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[Listener]:
    """Listen, a thread a connection; a client that goes away ends its connection, and the end of the test ends all."""
    found, open_connections = Listener(), set[socket.socket]()
    if context:
        context.sni_callback = lambda _, name, __: found.names.append(name)

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):  # what the other side breaks off
            if context:
                open_connections.discard(connection)
                connection = context.wrap_socket(connection, server_side=True)
                open_connections.add(connection)
            with connection:
                found.answer(connection)
        connection.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                open_connections.add(connection)
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        found.port = server.getsockname()[1]
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in open_connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class Canary:
    """A listener that nobody may reach; ``was_reached`` says whether somebody did."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.port: int = self._server.getsockname()[1]

    def was_reached(self) -> bool:
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._server.close()


class Rerouted(httpcore.NetworkBackend):
    """Note each connection that is made, and make it to a port of loopback instead."""

    def __init__(self, port: int, refusing: tuple[str, ...] = ()) -> None:
        self.port, self.refusing = port, refusing
        self.connections: list[tuple[str, int]] = []

    def connect_tcp(self, host: str, port: int, *more: object, **named: object) -> httpcore.NetworkStream:
        self.connections.append((host, port))
        if host in self.refusing:
            raise httpcore.ConnectError
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, timeout=5)


class Authority:
    """A certificate authority of its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority for a day")])
        self._certificate = self._signed(self._name, self._key, [x509.BasicConstraints(ca=True, path_length=None)])

    def trusted(self) -> ssl.SSLContext:
        """Return what a client believes that believes this authority alone."""
        return ssl.create_default_context(cadata=self._certificate.public_bytes(serialization.Encoding.PEM).decode())

    def serving(self, name: str, folder: Path, days: int = 1) -> ssl.SSLContext:
        """Return what a server shows as a host of that name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        found = self._signed(subject, key, [x509.SubjectAlternativeName([x509.DNSName(name)])], days)
        file = folder / "host.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + found.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: list[x509.ExtensionType],
        days: int = 1,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(
            now + datetime.timedelta(days=days)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())
