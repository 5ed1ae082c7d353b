"""Stands for Supabase Storage: its object route as the ``supabase`` client asks it, and its errors as it words them.

Storage says most errors with HTTP status 400, and puts the status that is meant into the JSON beside ``error`` and
``message``. The gateway before it refuses who shows no key of the project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from running import RecordingHost, recording_host

KEY = "sb_secret_of_a_test"
BUCKET = "voice-recordings"


@dataclass
class Storage:
    """A project's Storage, and the requests that reached it."""

    host: RecordingHost

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.host.port}"

    def store(self, path: str, content: bytes) -> None:
        self.host.answers[_route(path)] = lambda handler: _send(handler, content)

    def refuse(self, path: str, http_status: int, status: str, error: str, message: str) -> None:
        body = json.dumps({"statusCode": status, "error": error, "message": message}).encode()
        self.host.answers[_route(path)] = lambda handler: _send(handler, body, http_status, "application/json")


def _route(path: str) -> str:
    return f"storage/v1/object/{BUCKET}/{path}"


def _send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, kind: str = "audio/wav") -> None:
    if handler.headers["apikey"] != KEY:
        body, status, kind = b'{"message":"No API key found in request"}', 401, "application/json"
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def storage() -> Iterator[Storage]:
    with recording_host() as host:
        yield Storage(host)
