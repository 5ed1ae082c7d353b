"""A recording that kills whoever touches it, and a worker that sleeps through its lease."""

from __future__ import annotations

import signal
import time

from fixtures.databases import Database
from fixtures.processes import NUMBERS, until, workers
from fixtures.records import Records
from fixtures.running import recorded_call, recording_host

Told = dict[str, object]


def a_recording_that_kills(database: Database, neighbours: int = 6) -> Told:
    """A file that aborts the process ends dead after all its attempts; its neighbours are done, none spent twice."""
    records = Records(database)
    records.register()
    attempts = records.one("select maximum_attempts from care.settings")
    with recording_host() as host:
        calls = [recorded_call(records, host, "0.9") for _ in range(neighbours // 2)]
        poison = recorded_call(records, host, "0.9 ABORT")
        calls += [recorded_call(records, host, "0.9") for _ in range(neighbours - neighbours // 2)]
        settings = {"fetch_private_hosts": host.named, "lease_seconds": 1.5, "poll_seconds": 0.1, "worker_lanes": 4}
        crashes = 0
        with workers(1, NUMBERS, database.service_url, **settings) as [child]:
            while not records.all_checks_ended:
                if not child.is_running:
                    crashes += 1
                    child.start()
                time.sleep(0.05)
    ended = {row["call_log_id"]: row for row in records.rows("select * from care.checks")}
    killer = ended.pop(poison)
    assert (killer["state"], killer["reason"], killer["attempts"]) == ("dead", "attempts_exhausted", attempts), killer
    assert {row["state"] for row in ended.values()} == {"enrolled"}
    worst = max(row["attempts"] for row in ended.values())
    assert worst <= 2, "a neighbour was spent on it twice"
    assert set(ended) == set(calls)
    return {"crashes": crashes, "attempts of the killer": attempts, "most attempts of a neighbour": worst}


def a_worker_that_sleeps_through_its_lease(database: Database) -> Told:
    """Who was stopped past the lease cannot commit after another has finished; the row keeps the other's token."""
    records = Records(database)
    records.register()
    with recording_host() as host:
        settings = {"fetch_private_hosts": host.named, "lease_seconds": 1.0, "poll_seconds": 0.1, "worker_lanes": 1}
        with workers(2, NUMBERS, database.service_url, **settings) as [sleeper, other]:
            other.kill()
            until(lambda: sleeper.said("worker_started"), "the first worker has started")
            call_log_id = recorded_call(records, host, "0.9 SLOW")
            held = "select lease_token from care.checks where state = 'leased'"
            until(lambda: sleeper.said("fetch") and records.rows(held), "the first worker holds the check")
            first = records.one(held)
            sleeper.send(signal.SIGSTOP)
            other.start()
            until(lambda: records.all_checks_ended, "the second worker has finished")
            second = records.row("select lease_token, state, attempts from care.checks")
            sleeper.send(signal.SIGCONT)
            until(lambda: sleeper.said("check_not_ended"), "the first worker was refused")
            after = records.row("select lease_token, state, attempts from care.checks")
    assert first != second["lease_token"]
    assert after == second, "the sleeper changed what another had finished"
    assert second["state"] == "enrolled"
    assert records.one("select count(*) from voice.embeddings where call_log_id = %s", call_log_id) == 1
    return {"refused": True, "attempts": second["attempts"]}
