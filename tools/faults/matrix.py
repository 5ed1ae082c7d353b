"""The kill matrix: real speech through real workers while workers and PostgreSQL are killed at random moments.

In the end every call has one end, nothing is there twice, and each score is what it is in a run that nobody disturbs.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import psycopg

from faults.crashes import Told
from fixtures.databases import Database, Server, short_folder
from fixtures.processes import REAL, Child, until, workers
from fixtures.records import NOON, Records
from fixtures.running import RecordingHost, recording_host, settings_for
from retrocare.checks.service import opened_service
from retrocare.database.embedded import embedded
from retrocare.recordings.fetch import Recording

ENROLLED = 3
WORKERS = 3
ATTEMPTS = 1000  # kills must not use them up: what is compared is the outcome
Outcomes = Counter[tuple[str, str, str, str | None, float | None]]


@dataclass
class Plan:
    """What is called, and what is killed."""

    calls: int
    worker_kills: int
    server_kills: int
    seed: int = 1


def kill_matrix(speech: Path, plan: Plan, say: Callable[[str], None] = print) -> Told:
    """Run the same calls twice, undisturbed and disturbed, and compare."""
    chance = random.Random(plan.seed)
    with short_folder() as folder, recording_host() as host, cluster(folder) as (server, restart):
        template = enrolled_template(server, speech, host)
        calls = planned(speech, plan, host, chance)
        say(f"{plan.calls} calls: {dict(Counter(kind for _, kind, _ in calls))}")
        outcomes: list[Outcomes] = []
        kills: Counter[str] = Counter()
        for is_disturbed in (False, True):
            begun = time.monotonic()
            with server.clone(template) as database:
                ids = made(database, calls)
                settings = {
                    "fetch_private_hosts": host.named,
                    "lease_seconds": 4,
                    "poll_seconds": 0.2,
                    "worker_lanes": 2,
                    "fetch_seconds": 10,
                }
                with workers(WORKERS, REAL, database.service_url, **settings) as children:
                    if is_disturbed:
                        kills = disturb(database, folder, restart, children, plan, chance)
                    until(lambda: ended(database, children), "every call has its end", seconds=1800)
                outcomes.append(verified(database, ids))
            say(f"{'disturbed' if is_disturbed else 'undisturbed'}: {time.monotonic() - begun:.0f} s")
    differing = (outcomes[0] - outcomes[1]) + (outcomes[1] - outcomes[0])
    assert not differing, f"not the same as undisturbed: {differing}"
    ends: Counter[str] = Counter()
    for (_, _, state, reason, _), number in outcomes[1].items():
        ends[f"{state}: {reason}" if reason else state] += number
    return {"calls": plan.calls, "killed": dict(kills), "ends": dict(sorted(ends.items()))}


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Server, Callable[[], None]]]:
    """Start a PostgreSQL whose commits are kept when it is killed, and give what starts it again."""
    options = {"fsync": "off", "max_connections": "80"}  # the machine itself lives on: what is written is kept
    with contextlib.ExitStack() as started:

        def start() -> None:
            started.enter_context(embedded(folder, 18, options))

        server = Server(started.enter_context(embedded(folder, 18, options)).admin_url())
        try:
            yield server, start
        finally:
            with contextlib.suppress(psycopg.Error):
                server.close()


def enrolled_template(server: Server, speech: Path, host: RecordingHost) -> str:
    """Make a database whose patients have complete baselines, which do not grow."""
    name = f"{server.prefix}_enrolled"
    with server.clone(server.migrated_template) as database:
        records = Records(database)
        with opened_service(settings_for(database, fetch_private_hosts=host.named)) as service:
            records.set_policy(minimum_speech_seconds=1, baseline_target_samples=ENROLLED)
            records.do("update care.settings set maximum_attempts = %s, retry_base_seconds = 0.2", ATTEMPTS)
            records.do("update care.settings set retry_cap_seconds = 2")
            for folder in people(speech):
                patient_id = records.patient()
                records.do("update public.patients set name = %s where id = %s", folder.name, patient_id)
                call: dict[str, Any] = {"source": "onboarding", "enrolment_id": uuid4(), "occurred_at": NOON}
                for file in sorted(folder.glob("*.flac"))[:ENROLLED]:
                    row, _ = service.judge(Recording(content=file), patient_id, **call)
                    assert row["state"] == "enrolled", file
        database.close()
        server.admin.execute(f"create database {name} template {database.name} owner postgres".encode())
        server.templates.append(name)
    return name


def people(speech: Path) -> list[Path]:
    return sorted(folder for folder in (speech / "librispeech").iterdir() if folder.is_dir())


Call = tuple[str, str, str]  # whose, what kind, at which address


def planned(speech: Path, plan: Plan, host: RecordingHost, chance: random.Random) -> list[Call]:
    """Make the calls up: mostly good ones, some that fail in each way that a recording can."""
    kinds = ["good"] * 14 + ["duplicate", "poison", "missing", "flaky", "slow", "slow"]
    folders = people(speech)
    pairs = [(a, file) for a in folders for b in folders for file in sorted(b.glob("*.flac"))[ENROLLED:]]
    chance.shuffle(pairs)
    calls: list[Call] = []
    for number in range(plan.calls):
        folder, file = pairs[number % len(pairs)]
        kind = kinds[number % len(kinds)]
        good = [call for call in calls if call[1] == "good"]
        if kind == "duplicate" and good:
            calls.append((chance.choice(good)[0], kind, chance.choice(good)[2]))
            continue
        name = f"{number}-{kind}.flac"
        address = host.offer(name, b"no audio " + os.urandom(64) if kind == "poison" else file)
        if kind == "missing":
            del host.offered[name]
        elif kind in ("flaky", "slow"):
            host.answers[name] = troubled(host, name, kind)
        calls.append((folder.name, kind, address))
    return calls


def troubled(host: RecordingHost, name: str, kind: str) -> Callable[[BaseHTTPRequestHandler], None]:
    asked = Counter[str]()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked[name] += 1
        if kind == "flaky" and asked[name] % 3:
            return handler.send_error(503)
        if kind == "slow":
            time.sleep(0.7)
        content = host.offered[name]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return None

    return answer


def made(database: Database, calls: list[Call]) -> list[UUID]:
    """Write the calls as an integrator does; each queues its check in the same transaction."""
    records = Records(database)
    ids = {row["name"]: row["id"] for row in records.rows("select name, id from public.patients")}
    with database.owner.transaction():
        return [records.call_log(ids[whose], NOON, "provider", address) for whose, _, address in calls]


def ended(database: Database, children: list[Child]) -> bool:
    """Say whether all is done; a worker that ended itself is started again, as a supervisor does."""
    for child in children:
        if not child.is_running:
            child.start()
    with contextlib.suppress(psycopg.Error), psycopg.connect(database.owner_url) as connection:
        row = connection.execute("select count(*) from care.checks where state in ('queued', 'leased')").fetchone()
        return row == (0,)
    return False


def disturb(
    database: Database,
    folder: Path,
    restart: Callable[[], None],
    children: list[Child],
    plan: Plan,
    chance: random.Random,
) -> Counter[str]:
    """Kill workers in their work, and PostgreSQL: half the time as a whole, half the time one backend of it."""
    kills: Counter[str] = Counter()
    todo = ["worker"] * plan.worker_kills + ["server"] * plan.server_kills
    chance.shuffle(todo)
    for number, what in enumerate(todo):
        if ended(database, children):
            kills["left undone"] = len(todo) - number
            break
        if what == "worker":
            ready = [child for child in children if child.said("claimed")]
            if ready:
                time.sleep(chance.uniform(0, 2.0))  # long enough that some work gets done
                victim = chance.choice(ready)
                victim.kill()
                victim.start()
                kills["workers"] += 1
            else:
                todo.append(what)
                time.sleep(0.2)
        else:
            whole = kills["server at once"] <= kills["one backend"]
            kills[kill_server(database, folder, restart if whole else None)] += 1
    return kills


def kill_server(database: Database, folder: Path, restart: Callable[[], None] | None) -> str:
    """Kill PostgreSQL as a whole and start it again, or, without ``restart``, one of its backends."""
    postmaster = int((folder / "postgres-18" / "postmaster.pid").read_text().split()[0])
    if restart:
        os.kill(postmaster, signal.SIGQUIT)  # what pg_ctl -m immediate sends
        until(lambda: not is_alive(postmaster), "PostgreSQL has ended")
        restart()
    else:
        with psycopg.connect(database.owner_url) as connection:
            row = connection.execute(
                "select pid from pg_stat_activity where application_name = 'retrocare' order by random() limit 1"
            ).fetchone()
        if row:
            with contextlib.suppress(ProcessLookupError):
                os.kill(row[0], signal.SIGKILL)  # PostgreSQL then restarts itself
    until(lambda: answers(database), "PostgreSQL answers again")
    return "server at once" if restart else "one backend"


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def answers(database: Database) -> bool:
    with contextlib.suppress(psycopg.Error), psycopg.connect(database.owner_url):
        return True
    return False


def verified(database: Database, ids: list[UUID]) -> Outcomes:
    """Look for anything lost or doubled, and return what became of each patient's recordings."""
    database.close()
    records = Records(database)
    live = records.one("select count(*) from care.checks where state in ('queued', 'leased')")
    checks = records.rows(
        "select call_log_id, count(*) as n from care.checks where call_log_id = any(%s) group by 1", ids
    )
    assert (live, len(checks), {row["n"] for row in checks}) == (0, len(ids), {1}), "a call is lost or doubled"
    twice = """select count(*) from (select call_log_id from {} group by 1 having count(*) > 1) as twice"""
    for table in ("voice.embeddings", "public.voice_anomaly_logs"):
        assert records.one(twice.format(table)) == 0, table
    assert records.one(
        """select coalesce(bool_and(repeat_count + 1 = (
               select count(*) from public.voice_anomaly_logs as l
               where l.patient_id = a.patient_id and l.alert_type is not null)), true)
           from public.caregiver_alerts as a"""
    ), "an alert was counted twice, or not at all"
    assert records.one("select count(*) = count(distinct patient_id) from public.caregiver_alerts")
    rows = records.rows(
        """select p.name, c.recording_ref, k.state, k.reason, l.anomaly_score
           from care.checks as k join public.call_logs as c on c.id = k.call_log_id
           join public.patients as p on p.id = k.patient_id
           left join public.voice_anomaly_logs as l on l.call_log_id = k.call_log_id and l.encoder = k.model
           where c.id = any(%s)""",
        ids,
    )
    return Counter(
        (row["name"], row["recording_ref"], row["state"], row["reason"], row["anomaly_score"]) for row in rows
    )
