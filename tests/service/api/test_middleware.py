"""The gate: who shows no key has nothing parsed, who shows one a bounded body, and neither holds anybody up."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import get_args
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.routing import Mount

from fixtures.databases import Server
from fixtures.running import Running, running
from retrocare.api.auth import PUBLIC, ApiScope
from retrocare.api.middleware import needed_scope

KEY = "a long random text"
SHOWN = {"Authorization": f"Bearer {KEY}"}
QUICK_SECONDS = 1.0
LARGE_BYTES = 36_000_000
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[Running]:
    with server.clone(server.migrated_template) as database, running(database, api_key=SecretStr(KEY)) as found:
        yield found


def address(app: Running) -> tuple[str, int]:
    return app.client.base_url.host, app.client.base_url.port or 80


def post(app: Running, path: str, length: int, key: str = "", chunked: bool = False) -> tuple[bytes, float]:
    """Send a JSON array without end; return the beginning of the answer, and how many seconds it took to come."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {length}"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    piece = b"[1," * 20_000
    with socket.create_connection(address(app)) as connection:
        connection.settimeout(30)
        connection.sendall(f"{head}\r\n".encode())

        def send() -> None:
            sent = 0
            try:
                while sent < length:
                    connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece[: length - sent])
                    sent += len(piece)
            except OSError:
                pass  # the connection was closed: nothing more is wanted

        begun = time.monotonic()
        sending = threading.Thread(target=send)
        sending.start()
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            answer = b""
        spent = time.monotonic() - begun
        sending.join()
    return answer, spent


@contextmanager
def slowest_health(app: Running) -> Iterator[list[float]]:
    """Ask for /health all the while; the slowest answer is the last of the list, in seconds."""
    spent, done = [0.0], threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=app.client.base_url, timeout=30) as client:
            while not done.is_set():
                begun = time.monotonic()
                assert client.get("/health").status_code == 200
                spent.append(max(spent[-1], time.monotonic() - begun))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield spent
    finally:
        done.set()
        asking.join()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/compare", "/embed", "/api/anomaly-check"])
def test_without_a_key_nothing_of_a_body_is_read(app: Running, path: str, chunked: bool) -> None:
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    with slowest_health(app) as spent:
        answer, seconds = post(app, path, LARGE_BYTES, chunked=chunked)
        grown = process.memory_info().rss - before
    assert answer.startswith(b"HTTP/1.1 401") or not answer
    assert seconds < QUICK_SECONDS
    assert spent[-1] < QUICK_SECONDS
    assert grown < 10 * MEGABYTE


@pytest.mark.parametrize("path", ["/compare", "/embed", "/api/anomaly-check"])
def test_who_shows_a_key_sends_at_most_a_megabyte_of_json(app: Running, path: str) -> None:
    answer, seconds = post(app, path, 1_100_000, KEY)
    assert (answer.startswith(b"HTTP/1.1 413"), seconds < QUICK_SECONDS) == (True, True)
    answer, seconds = post(app, path, 1_100_000, KEY, chunked=True)
    assert (answer.startswith(b"HTTP/1.1 413"), seconds < QUICK_SECONDS) == (True, True)


@pytest.mark.parametrize(
    "body",
    [
        "[" * 999_999,
        '{"baseline":' + "[" * 900_000,
        '{"baseline": [' + ",".join(["1"] * 490_000) + '], "current": [1]}',
        '{"baseline": [' + ",".join(['"x"'] * 240_000) + '], "current": [1]}',
        "{" + ",".join(f'"{number}":{{}}' for number in range(80_000)) + "}",
    ],
    ids=["nested", "nested below a field", "long", "long and wrong", "many fields"],
)
def test_large_json_is_refused_quickly(app: Running, body: str) -> None:
    with slowest_health(app) as spent:
        for path in ("/compare", "/embed", "/api/anomaly-check"):
            begun = time.monotonic()
            answer = app.client.post(path, content=body, headers={**SHOWN, "Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
            assert time.monotonic() - begun < QUICK_SECONDS
    assert spent[-1] < QUICK_SECONDS


def test_a_form_with_files_may_be_as_large_as_a_recording_where_files_are_taken(app: Running) -> None:
    files = {"file": b"x" * 1_100_000}
    assert app.client.post("/embed", files=files, headers=SHOWN).json()["code"] == "undecodable"
    assert app.client.post("/compare", files=files, headers=SHOWN).status_code == 413


def test_what_the_gate_refuses_is_a_problem_that_browsers_may_read(server: Server) -> None:
    known = {"cors_origins": "https://care.example", "api_key": SecretStr(KEY)}
    with server.clone(server.migrated_template) as database, running(database, **known) as app:
        for key, status in (({}, 401), (SHOWN, 413)):
            headers = {"Origin": "https://care.example", "Content-Type": "application/json", **key}
            answer = app.client.post("/compare", content=b"[" * 1_100_000, headers=headers)
            assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
            assert answer.headers["access-control-allow-origin"] == "https://care.example"


def test_every_route_is_public_by_name_or_asks_for_a_scope(app: Running) -> None:
    api: FastAPI = app.api
    public = set()
    for route in api.routes:
        path = getattr(route, "path", "")
        if (scope := needed_scope(route)) is None:
            public.add(path)
        else:
            assert scope in get_args(ApiScope), path
    assert public == PUBLIC
    assert {"/", "/health", "/readyz", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/docs/static"} == PUBLIC
    assert [route.path for route in api.routes if isinstance(route, Mount)] == ["/docs/static"]


def test_a_route_that_declares_nothing_is_for_operators() -> None:
    api = FastAPI(openapi_url=None)
    api.get("/forgotten")(lambda: None)
    assert [needed_scope(route) for route in api.routes] == ["admin"]


def test_a_flood_of_wrong_keys_takes_two_connections_and_none_of_the_workers_time(server: Server) -> None:
    with server.clone(server.migrated_template) as database, running(database) as app:
        app.records.do("insert into care.api_keys (name, key_sha256, scopes) values ('one', sha256('one'), '{admin}')")
        connections = [0]
        flooding = threading.Event()

        def knock(_: int) -> int:
            return app.client.get("/metrics", headers={"X-API-Key": str(uuid4())}).status_code

        def count() -> None:
            while not flooding.wait(0.01):
                found = database.admin.execute(
                    "select count(*) from pg_stat_activity"
                    " where datname = current_database() and state = 'active' and query like '%care.use_api_key%'"
                    " and pid <> pg_backend_pid()"
                ).fetchone()
                connections.extend(found or ())

        counting = threading.Thread(target=count)
        counting.start()
        # Each look-up waits for a while, so that the flood would take all the connections that it could get.
        with ThreadPoolExecutor(64) as pool, psycopg.connect(database.owner_url) as blocker:
            blocker.execute("lock table care.api_keys in access exclusive mode")
            answers = [pool.submit(knock, number) for number in range(200)]
            time.sleep(0.5)
            begun = time.monotonic()
            app.service.database.claim_checks(app.service.encoder, "worker", 1, 60)
            claimed = time.monotonic() - begun
            assert app.client.get("/health").status_code == 200
            blocker.rollback()
            assert {answer.result() for answer in answers} == {401}
        flooding.set()
        counting.join()
        assert claimed < QUICK_SECONDS
        assert 0 < max(connections) <= 2
