"""Completing a check: one call of a function, against the pattern's statements; beside the server, and 20 ms away."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
from pgvector import Vector
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench import p50_and_p95
from bench.pattern import Store
from fixtures.calibrated import DOCUMENT, calibrate
from fixtures.databases import Database
from fixtures.records import Records, Row

DIMENSION, WHITENED = 256, 48  # as GE2E's
ENCODER = "bench-v1"
SAMPLES = 10  # a complete baseline
AWAY_SECONDS = 0.020
BESIDE, AWAY = "beside the server", "20 ms away"
LONGEST_MS = 2.0  # beside the server, half of the time: nearly all of it is the function's own work
LEAST_TIMES_FASTER = 5.0  # from away, where round trips count


@dataclass(frozen=True)
class Completion:
    """How long completing takes in one place: medians and 95th percentiles, in milliseconds."""

    place: str
    ours_ms: float
    ours_p95_ms: float
    pattern_ms: float
    pattern_p95_ms: float

    @property
    def times_faster(self) -> float:
        return self.pattern_ms / self.ours_ms


def bench_completion(database: Database, calls: int = 300, tell: Callable[[str], None] = print) -> list[Completion]:
    """Complete healthy calls of patients with a full baseline, one after the other, ours and the pattern's in turn.

    Ours are judged by the calibrated rule; the pattern compares cosines.
    """
    records = Records(database)
    records.register(ENCODER, DIMENSION)
    random = np.random.default_rng(0)
    weights = random.normal(size=(WHITENED, DIMENSION)).round(6)
    projection = {"weights": weights.tolist(), "offsets": [0.0] * WHITENED}
    calibrate(records, {**DOCUMENT, "encoder": ENCODER, "projection": projection})
    voice = _unit(random.normal(size=DIMENSION))
    patients = [records.patient() for _ in range(20)]
    for patient in patients:
        enrolment_id = uuid4()
        for _ in range(SAMPLES):
            _complete(database.service, _claimed(records, patient, "onboarding", enrolment_id), voice)
    made = [(uuid4(), patients[n % len(patients)]) for n in range(2 * calls)]
    pattern = Store.opened(database.admin_url)
    pattern.fill(patients, made, voice)
    pattern.close()
    found = []
    for place, delay in ((BESIDE, 0.0), (AWAY, AWAY_SECONDS)):
        count = calls if not delay else max(20, calls // 5)
        with nearby(database, delay) as address:
            found.append(_measured(place, records, patients, made[:count], voice, address))
            del made[:count]
        tell(f"   {count} calls completed {place}, twice")
    return found


def _measured(
    place: str,
    records: Records,
    patients: Sequence[UUID],
    calls: Sequence[tuple[UUID, UUID]],
    voice: Vector,
    address: Callable[[str], str],
) -> Completion:
    random = np.random.default_rng(1)
    store = Store.opened(address(records.database.admin_url))
    spent: tuple[list[float], list[float]] = ([], [])
    with psycopg.connect(address(records.database.service_url), autocommit=True) as service:
        service.prepare_threshold = None  # as the service, which may sit behind a pooler
        for n, (call_log_id, _) in enumerate(calls):
            heard = _unit(np.array(voice) + random.normal(0, 0.2 / np.sqrt(DIMENSION), DIMENSION))
            claim = _claimed(records, patients[n % len(patients)], "upload")
            begun = time.perf_counter()
            _complete(service, claim, heard)
            between = time.perf_counter()
            store.complete(call_log_id, heard, 30.0)
            spent[0].append(1000 * (between - begun))
            spent[1].append(1000 * (time.perf_counter() - between))
    store.close()
    ours, theirs = map(p50_and_p95, spent)
    return Completion(place, *ours, *theirs)


def _claimed(records: Records, patient_id: UUID, source: str, enrolment_id: UUID | None = None) -> Row:
    call_log_id = records.call_log(patient_id, source=source, enrolment_id=enrolment_id)
    return records.call("open_check", call_log_id, ENCODER, "bench", 600)


def _complete(connection: psycopg.Connection[Any], claim: Row, voice: Any) -> None:
    sha256 = hashlib.sha256(str(claim["check_id"]).encode()).digest()
    values = (claim["check_id"], claim["lease_token"], Vector(voice).to_text(), sha256, 15.0, 30.0, "{}")
    connection.execute(
        b"select * from voice.complete_check(%s, %s, %s::extensions.vector, %s, %s, %s, %s)", values
    ).fetchall()


def _unit(vector: Any) -> Any:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@contextmanager
def nearby(database: Database, seconds: float) -> Iterator[Callable[[str], str]]:
    """Give what turns the server's address into one by which every answer comes that much later."""
    if not seconds:
        yield lambda url: url
        return
    given = conninfo_to_dict(database.admin_url)
    port = given.get("port") or 5432

    def connect() -> socket.socket:
        if str(given["host"]).startswith("/"):
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(f"{given['host']}/.s.PGSQL.{port}")
            return upstream
        return socket.create_connection((str(given["host"]), int(port)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        opened: list[socket.socket] = [server]

        def listen() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                upstream = connect()
                opened.extend([client, upstream])
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for pair, delay in (((client, upstream), seconds), ((upstream, client), 0.0)):
                    threading.Thread(target=_relay, args=(*pair, delay), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        try:
            yield lambda url: make_conninfo(url, host="127.0.0.1", port=server.getsockname()[1])
        finally:
            for one in opened:
                one.close()


def _relay(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Pass on what comes, that much later: a question waits, its answer does not."""
    try:
        while data := source.recv(1 << 16):
            time.sleep(seconds)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def shown(found: Sequence[Completion]) -> str:
    lines = [f"{'completing a call, ms (p50 / p95)':<36}{'one function':>18}{'the pattern':>18}   faster"]
    for one in found:
        ours, theirs = f"{one.ours_ms:.1f} / {one.ours_p95_ms:.1f}", f"{one.pattern_ms:.1f} / {one.pattern_p95_ms:.1f}"
        lines.append(f"{one.place:<36}{ours:>18}{theirs:>18} {one.times_faster:>6.1f} x")
    return "\n".join(lines)


def failures(found: Sequence[Completion]) -> list[str]:
    """Name the places where one call of a function takes longer, or saves less, than promised."""
    wrong = []
    for one in found:
        if one.place == BESIDE and one.ours_ms > LONGEST_MS:
            wrong.append(f"completing {one.place} takes {one.ours_ms:.2f} ms, not {LONGEST_MS:g} at most")
        if one.place == AWAY and one.times_faster < LEAST_TIMES_FASTER:
            wrong.append(f"completing {one.place} is {one.times_faster:.1f} x faster, not {LEAST_TIMES_FASTER:g} x")
    return wrong


def as_json(found: Sequence[Completion]) -> list[dict[str, Any]]:
    return [asdict(one) | {"times_faster": one.times_faster} for one in found]
