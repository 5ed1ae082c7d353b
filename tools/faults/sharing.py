"""Many workers share one list: the more, the sooner, and nothing twice."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler

import psycopg

from faults.crashes import Told
from fixtures.databases import Database
from fixtures.processes import NUMBERS, until, workers
from fixtures.records import ENCODER, NOON, Records
from fixtures.running import recording_host

DOWNLOAD_SECONDS = 0.5


def more_workers_finish_sooner(database: Database, calls: int = 24, counts: tuple[int, ...] = (1, 2, 4)) -> Told:
    """One lane a worker, downloads of half a second: the time falls as workers join, and each check is claimed once."""
    records = Records(database)
    records.register()
    times: dict[int, float] = {}
    with recording_host() as host:

        def slow(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(DOWNLOAD_SECONDS)
            content = f"0.9 {handler.path}".encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)

        settings = {"fetch_private_hosts": host.named, "poll_seconds": 0.05, "worker_lanes": 1}
        for count in counts:
            with workers(count, NUMBERS, database.service_url, **settings) as children:
                until(lambda: all(child.said("worker_started") for child in children), "the workers have started")
                for number in range(calls):
                    host.answers[f"{count}-{number}"] = slow
                begun = time.monotonic()
                for number in range(calls):
                    records.call_log(records.patient(), NOON, "provider", host.address(f"{count}-{number}"))
                until(lambda: records.all_checks_ended, "all are done")
                times[count] = time.monotonic() - begun
    assert records.one("select max(attempts) from care.checks") == 1, "a check was claimed twice"
    assert records.one("select count(*) from care.checks where state = 'enrolled'") == calls * len(counts)
    falling = [times[count] for count in counts]
    assert falling == sorted(falling, reverse=True), times
    assert times[counts[-1]] < 0.6 * times[counts[0]], times
    return {f"{count} workers": f"{spent:.1f} s" for count, spent in times.items()}


def a_storm_of_claims(database: Database, clients: int, checks: int) -> Told:
    """Clients claim and finish as fast as they can: no check is handed out twice, none is left."""
    records = Records(database)
    records.register()
    records.do(
        """with people as (
               insert into public.patients (voice_consent_at)
               select now() from generate_series(1, %s) returning id
           )
           insert into public.call_logs (patient_id, recording_ref)
           select people.id, 'https://example.org/' || n from people, generate_series(1, 5) as n""",
        checks // 5,
    )
    taken: list[int] = []
    begun = time.monotonic()

    def client(number: int) -> None:
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            while True:
                rows = connection.execute(
                    "select check_id, lease_token from voice.claim_checks(%s, %s, 4, 600)", [ENCODER, str(number)]
                ).fetchall()
                for check_id, lease_token in rows:
                    taken.append(check_id)
                    connection.execute("select care.abstain_check(%s, %s, 'no_speech', '{}')", [check_id, lease_token])
                if not rows and all_done.is_set():
                    return

    all_done = threading.Event()
    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: records.all_checks_ended, "every check has ended", seconds=600)
    finally:
        all_done.set()
        for thread in threads:
            thread.join()
    spent = time.monotonic() - begun
    assert len(taken) == len(set(taken)) == checks, (len(taken), len(set(taken)))
    assert records.one("select max(attempts) from care.checks") == 1
    return {"clients": clients, "checks": checks, "a second": f"{checks / spent:.0f}"}
