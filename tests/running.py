"""The service, running on a free port of loopback, and a host that serves recordings."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from databases import Database
from inputs import MODELS
from records import Records
from retrocare.api.admission import Admission
from retrocare.api.app import create_app
from retrocare.checks.service import Service, opened_service
from retrocare.settings import Settings


@dataclass
class Running:
    """A running service, an HTTP client of it, its database, and the host of recordings."""

    client: httpx.Client
    service: Service
    records: Records
    host: RecordingHost
    admission: Admission
    api: FastAPI


@dataclass
class RecordingHost:
    """Serve bytes by name: ``offer`` them, then give their address away."""

    port: int = 0
    offered: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """What RETROCARE_FETCH_PRIVATE_HOSTS says to allow it."""
        return f"127.0.0.1:{self.port}"

    def offer(self, name: str, content: bytes | Path) -> str:
        self.offered[name] = content if isinstance(content, bytes) else content.read_bytes()
        return self.address(name)

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{quote(name)}"


@contextmanager
def recording_host() -> Iterator[RecordingHost]:
    host = RecordingHost()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path.lstrip("/").partition("?")[0])
            if name in host.answers:
                return host.answers[name](self)
            content = host.offered.get(name)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")
            return None

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Say nothing: whoever asked was killed, or has had enough."""

    server = Server(("127.0.0.1", 0), Handler)
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings_for(database: Database, **values: Any) -> Settings:
    """Give settings that depend on nothing around the test."""
    fixed: dict[str, Any] = {"database_url": SecretStr(database.service_url), "encoder": "ge2e", "model_dir": MODELS}
    return Settings.model_construct(**{**_defaults(), **fixed, **values})


def _defaults() -> dict[str, Any]:
    return {name: info.default for name, info in Settings.model_fields.items()}


@contextmanager
def running(database: Database, **values: Any) -> Iterator[Running]:
    """Run the service as `retrocare start` does."""
    with (
        recording_host() as host,
        opened_service(settings_for(database, **{"fetch_private_hosts": host.named} | values)) as service,
    ):
        app = create_app(service.settings, service)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield Running(client, service, Records(database), host, app.state.admission, app)
        finally:
            server.should_exit = True
            thread.join(30)
