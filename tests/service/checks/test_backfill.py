"""backfill.py: another encoder takes over while calls come in; real workers and threads, and real encoders."""

from __future__ import annotations

import json
import logging
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import UUID

import pytest

from fixtures.commands import bare_environment, objects
from fixtures.databases import Database
from fixtures.inputs import RETROCARE
from fixtures.numbers import Numbers, read_number
from fixtures.processes import until
from fixtures.records import ENCODER, NOON, Records
from fixtures.running import RecordingHost, recorded_call, settings_for
from retrocare.api.metrics import exposition
from retrocare.checks.backfill import Backfill
from retrocare.checks.inference import Inference
from retrocare.checks.retry import until_answered
from retrocare.checks.scheduler import Scheduler
from retrocare.checks.service import Service
from retrocare.checks.worker import Worker
from retrocare.cli.backfill import Meter
from retrocare.cli.demo import RECORDINGS
from retrocare.database.connection import connected
from retrocare.errors import Conflict, DatabaseUnavailable, Unavailable

NEXT = "next-v1"
PATIENCE_SECONDS = 120


class Next(Numbers):
    """The encoder that is to become active."""

    id = NEXT


@pytest.fixture
def records(records: Records) -> Records:
    records.register(NEXT)
    return records


@contextmanager
def serving(records: Records, host: RecordingHost, encoder: Numbers, **settings: object) -> Iterator[Service]:
    usual = {"poll_seconds": 0.1, "lease_seconds": 30.0, "worker_lanes": 2, "schedule_seconds": 0.2}
    given = settings_for(records.database, **{**usual, "fetch_private_hosts": host.named, **settings})
    with connected(given) as database:
        inference = Inference(encoder)
        try:
            yield Service(given, database, inference, "a test")
        finally:
            inference.stop()


def backfill_of(service: Service, is_history: bool = False) -> Backfill:
    return Backfill(service, is_history, lambda waiting: None, read_number)


@contextmanager
def judging(service: Service) -> Iterator[None]:
    """Judge calls and run what is due, as `retrocare worker` does, with recordings that are numbers."""
    worker = Worker(service.settings, service.database, service.inference, read_number)
    scheduler = Scheduler(service.settings, service.database)
    worker.start()
    scheduler.start()
    try:
        yield
    finally:
        worker.stop()
        scheduler.stop()


def test_every_call_that_comes_in_during_the_whole_switch_is_judged_exactly_once(
    records: Records, host: RecordingHost
) -> None:
    chance = random.Random(7)
    people = [records.patient() for _ in range(6)]
    calls = [
        recorded_call(records, host, "0.95", person, NOON + timedelta(days=number - 40))
        for person in people
        for number in range(3)
    ]
    stop = threading.Event()

    def report_calls() -> None:
        """Calls of those who are known, and now and then of somebody new."""
        while not stop.is_set():
            if chance.random() < 0.15:
                people.append(records.patient())
            voice = chance.choice(["0.97", "0.9", "0.5"])
            calls.append(
                recorded_call(records, host, voice, chance.choice(people), NOON + timedelta(days=len(calls) / 100))
            )
            time.sleep(0.04)

    with ExitStack() as running:
        old = running.enter_context(serving(records, host, Numbers()))
        new = running.enter_context(serving(records, host, Next()))
        old_worker = running.enter_context(ExitStack())
        old_worker.enter_context(judging(old))
        until(lambda: records.all_checks_ended, seconds=PATIENCE_SECONDS)
        caller = threading.Thread(target=report_calls)
        caller.start()
        try:
            backfill = backfill_of(new)
            with backfill.working():
                time.sleep(0.5)
                backfill.activate(accepts_unrecoverable=False)
                at_switch = len(calls)
            with judging(new):
                until(lambda: len(calls) > at_switch + 20, seconds=PATIENCE_SECONDS)
                old_worker.close()
                until(lambda: len(calls) > at_switch + 40, seconds=PATIENCE_SECONDS)
                stop.set()
                caller.join()
                until(lambda: records.all_checks_ended, seconds=PATIENCE_SECONDS)
        finally:
            stop.set()
            caller.join()

    ended = records.rows(
        """select c.id, c.check_state, array_agg(k.model) as encoders,
                array_agg(k.state::text) as states,
                (select count(*) from public.voice_anomaly_logs as l where l.call_log_id = c.id) as logs
           from public.call_logs as c join care.checks as k on k.call_log_id = c.id and not k.is_backfill
           group by c.id"""
    )
    assert {row["id"] for row in ended} == set(calls)
    wrong = [row for row in ended if (row["states"], row["logs"]) not in ((["scored"], 1), (["enrolled"], 0))]
    assert wrong == []
    judges = [row["encoders"][0] for row in ended]
    assert min(judges.count(ENCODER), judges.count(NEXT)) > 20
    assert records.one("select id from care.models where is_active") == NEXT
    lost = records.rows(
        """select patient_id from voice.baselines where encoder = %s and superseded_at is null
           except select patient_id from voice.baselines where encoder = %s and superseded_at is null""",
        ENCODER,
        NEXT,
    )
    assert lost == []


def test_several_share_a_backfill_and_who_is_stopped_gives_back_what_it_holds(
    records: Records, host: RecordingHost
) -> None:
    for _ in range(4):
        patient_id = records.patient()
        for number in range(3):
            recorded_call(records, host, "0.95", patient_id, NOON + timedelta(days=number))
    with serving(records, host, Numbers()) as old, judging(old):
        until(lambda: records.all_checks_ended, seconds=PATIENCE_SECONDS)
    asked = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        time.sleep(30)

    held = list(host.offered)[4]
    host.answers[held] = slow
    with serving(records, host, Next()) as one:
        stopped = backfill_of(one)
        with stopped.working():
            one.database.open_backfill(NEXT, False, 1000)
            assert asked.wait(PATIENCE_SECONDS)
        assert records.one("select count(*) from care.checks where state = 'leased'") == 0
        assert records.one("select max(attempts) from care.checks where state = 'queued'") == 0
    del host.answers[held]
    done = records.one("select count(*) from voice.embeddings where encoder = %s", NEXT)
    with serving(records, host, Next()) as one, serving(records, host, Next()) as two:
        threads = []
        for service in (one, two):
            backfill = backfill_of(service)
            running = ExitStack()
            running.enter_context(backfill.working())
            threads.append((threading.Thread(target=backfill.finish), running))
            threads[-1][0].start()
        for thread, running in threads:
            thread.join(PATIENCE_SECONDS)
            running.close()
        status = one.database.backfill_status(NEXT)
    assert done < status["embedded"] == 12
    assert (status["baselines"], status["rebuilt"], status["waiting"]) == (4, 4, 0)
    assert records.one("select max(attempts) from care.checks where is_backfill") == 1


def test_activation_says_whose_baseline_is_unrecoverable_and_does_nothing(
    records: Records, host: RecordingHost
) -> None:
    lost = records.patient()
    records.judge(lost)
    with serving(records, host, Next()) as service:
        backfill = backfill_of(service)
        with backfill.working(), pytest.raises(Conflict) as refused:
            backfill.activate(accepts_unrecoverable=False)
        assert refused.value.code == "baselines_missing"
        assert [row["patient_id"] for row in service.database.unrecoverable_baselines(NEXT)] == [lost]
        with backfill.working():
            backfill.activate(accepts_unrecoverable=True)
        assert service.database.active_encoder() == NEXT


def test_the_worker_of_an_encoder_that_is_not_active_any_more_says_so_and_waits(
    records: Records, host: RecordingHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retrocare")

    def said(event: str) -> int:
        return sum(record.getMessage() == event for record in caplog.records)

    with serving(records, host, Numbers()) as old, judging(old):
        until(lambda: said("worker_started"))
        records.call("activate_encoder", NEXT)
        until(lambda: said("encoder_not_active"), seconds=20)
        waiting = recorded_call(records, host, "0.95")
        time.sleep(0.5)
        assert said("encoder_not_active") == 1
        assert said("claimed") == 0
        with pytest.raises(Unavailable, match="next-v1"):
            old.check_ready()
        records.call("activate_encoder", ENCODER)
        until(lambda: said("encoder_active"), seconds=20)
        until(lambda: records.all_checks_ended, seconds=20)
    assert records.one("select check_state from public.call_logs where id = %s", waiting) == "enrolled"


def test_a_database_that_is_away_is_waited_for_and_another_refusal_is_not() -> None:
    told: list[str] = []
    answers: list[Unavailable | int] = [DatabaseUnavailable("away"), 3]

    def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    assert until_answered(ask, lambda error, wait: told.append(str(error))) == 3
    assert told == ["away"]
    answers = [Unavailable("not migrated", code="not_migrated")]
    with pytest.raises(Unavailable, match="not migrated"):
        until_answered(ask, lambda error, wait: None)


def test_the_meter_says_how_much_is_done_how_fast_and_how_long_the_others_take() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    meter.note(100)
    assert str(meter) == "100 recordings wait"
    now[0] = 60.0
    meter.note(80)
    assert str(meter) == "20 of 100 recordings are done, 20.0 a minute; about 0:04:00 left"
    meter.note(90)  # ten came meanwhile
    assert (meter.done, meter.total) == (20, 110)


def test_metrics_keep_a_backfill_apart_so_that_no_alarm_rings_for_it(records: Records, host: RecordingHost) -> None:
    records.recorded(records.patient())
    records.call("open_backfill", NEXT, False, 10)
    with serving(records, host, Numbers()) as service:
        shown = exposition(service).decode()
    assert f'retrocare_backfill_checks{{model="{NEXT}",reason="",signal="voice",state="queued"}} 1.0' in shown
    assert f'retrocare_checks{{model="{ENCODER}",reason="",signal="voice",state="enrolled"}} 1.0' in shown
    assert f'retrocare_checks{{model="{NEXT}"' not in shown
    assert "retrocare_queue_depth 0.0" in shown
    assert "retrocare_oldest_waiting_seconds 0.0" in shown


# The command, with encoders that hear.


@dataclass
class Retrocare:
    """The command line, on the test's database and recordings."""

    environment: dict[str, str]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [RETROCARE, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240, check=False)

    @contextmanager
    def beside(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run it beside the test; whatever becomes of that, the process is ended with it."""
        command = [RETROCARE, *words]
        process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def retrocare(database: Database, host: RecordingHost, ecapa_dir: Path) -> Retrocare:
    return Retrocare(
        bare_environment(
            DATABASE_URL=database.service_url,
            RETROCARE_FETCH_PRIVATE_HOSTS=host.named,
            RETROCARE_ECAPA_DIR=str(ecapa_dir),
            RETROCARE_POLL_SECONDS="0.2",
        )
    )


def test_the_command_brings_another_encoder_in_from_the_first_recording_to_the_last_step(
    database: Database, host: RecordingHost, retrocare: Retrocare
) -> None:
    added = objects(retrocare("patient", "add", "Ana", "--consent", "--json").stdout)
    records, patient_id = Records(database), UUID(added[0]["id"])
    names = ["01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday", "04-usual-thursday", "10-another-voice"]
    for number, name in enumerate(names):
        records.call_log(
            patient_id, NOON + timedelta(days=number), "provider", host.offer(name, RECORDINGS / f"{name}.flac")
        )
    assert not records.rows("select from care.checks")
    with retrocare.beside("worker"):
        until(
            lambda: (
                records.one("select count(*) from public.call_logs where check_state in ('scored', 'enrolled')") == 5
            )
        )
    logs = records.rows("select * from public.voice_anomaly_logs order by id")
    assert {log["encoder"] for log in logs} == {"ge2e-v2"}

    asked, go_on = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        go_on.wait(60)

    host.answers["02-enrol-tuesday"] = slow
    with retrocare.beside("backfill", "--encoder", "ecapa") as process:
        assert asked.wait(120)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The same command goes on from here" in told
    go_on.set()
    del host.answers["02-enrol-tuesday"]
    assert records.one("select count(*) from care.checks where state = 'leased'") == 0

    done = retrocare("backfill", "--encoder", "ecapa")
    assert done.returncode == 0, done.stderr
    assert re.search(r"`retrocare backfill --encoder (ecapa-\w+-v2) --activate` makes \1 the active", done.stderr)
    assert records.one("select id from care.models where is_active") == "ge2e-v2"
    done = retrocare("backfill", "--encoder", "ecapa", "--history", "--activate", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["encoder"].startswith("ecapa-")
    assert (row["is_active"], row["embedded"], row["waiting"], row["unrecoverable_patients"]) == (True, 5, 0, [])
    assert records.one("select id from care.models where is_active") == row["encoder"]
    assert records.rows("select * from public.voice_anomaly_logs order by id") == logs
    dimensions = records.rows("select distinct dimension from voice.embeddings order by 1")
    assert [found["dimension"] for found in dimensions] == [192, 256]

    refused = retrocare("worker")  # RETROCARE_ENCODER still names the old one
    assert refused.returncode == 1
    assert "encoder_not_active" in refused.stderr


def test_the_command_ends_with_1_where_a_baseline_cannot_be_rebuilt(database: Database, retrocare: Retrocare) -> None:
    retrocare("patient", "add", "Ana", "--consent")
    enrolled = retrocare("enroll", "Ana", str(RECORDINGS / "01-enrol-monday.flac"))
    assert enrolled.returncode == 0, enrolled.stderr
    done = retrocare("backfill", "--encoder", "ecapa", "--activate", "--json")
    assert done.returncode == 1
    row = json.loads(done.stdout)
    assert [lost["gone_count"] for lost in row["unrecoverable_patients"]] == [1]
    assert "Not activated" in done.stderr
    done = retrocare("backfill", "--encoder", "ecapa", "--activate", "--accept-unrecoverable")
    assert done.returncode == 0, done.stderr
