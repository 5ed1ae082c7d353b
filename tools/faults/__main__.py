"""Run what goes wrong on purpose, at length: ``scripts/faults``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from faults import crashes, fuzz, load, locks, matrix, sharing
from fixtures.databases import Database, Server, short_folder
from fixtures.inputs import SPEECH
from retrocare.database.embedded import embedded


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all of it, over half an hour; a tenth by default")
    parser.add_argument("--only", metavar="NAME", help="only the one whose name has this in it")
    parser.add_argument("--json", action="store_true", help="print JSON at the end")
    chosen = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))  # and so past every end that stops what was started
    size = 10 if chosen.full else 1
    plan = matrix.Plan(calls=50 * size, worker_kills=20 * size, server_kills=2 * size)
    faults: dict[str, Callable[[Database], object]] = {
        "kill matrix": lambda _: matrix.kill_matrix(SPEECH, plan),
        "a recording that kills": crashes.a_recording_that_kills,
        "a worker that sleeps through its lease": crashes.a_worker_that_sleeps_through_its_lease,
        "more workers finish sooner": sharing.more_workers_finish_sooner,
        "a storm of claims": lambda database: sharing.a_storm_of_claims(database, 32, 2_000 * size),
        "deadlocks": lambda database: locks.no_deadlock(database, 6.0 * size),
        "deadlocks on PostgreSQL 16": lambda database: locks.no_deadlock(database, 6.0 * size),
        "fuzzed recordings": lambda database: fuzz.fuzzed_recordings(database, 500 * size),
        "fuzzed requests": lambda database: fuzz.fuzzed_requests(database, 200 * size),
        "load": lambda database: load.steady_load(database, 60.0 * size),
    }
    told: dict[str, object] = {}
    failed = False
    with ExitStack() as started:
        servers: dict[int, Server] = {}

        def server_for(name: str) -> Server:
            version = 16 if name.endswith("16") else 18
            if version not in servers:
                folder = started.enter_context(short_folder())
                running = started.enter_context(embedded(folder, version, {"max_connections": "80"}))
                servers[version] = Server(running.admin_url())
                started.callback(servers[version].close)
            return servers[version]

        for name, fault in faults.items():
            if chosen.only and chosen.only not in name:
                continue
            server = server_for(name)
            if name == "kill matrix" and not SPEECH.is_dir():
                print(f"== {name}: left out, no recordings in {SPEECH} (set RETROCARE_SPEECH_DIR)")
                continue
            print(f"== {name}", flush=True)
            begun = time.monotonic()
            try:
                with server.clone(server.migrated_template) as database:
                    told[name] = fault(database)
            except AssertionError as error:
                told[name], failed = f"FAILED: {error}", True
            print(f"   {told[name]}\n   {time.monotonic() - begun:.0f} s", flush=True)
    if chosen.json:
        print(json.dumps(told, indent=2, default=str))
    print("some of it does not hold" if failed else "all of it holds")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
