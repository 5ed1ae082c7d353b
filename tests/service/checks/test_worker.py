"""The worker: real processes and threads, a real database, recordings from a local host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from fixtures.databases import Database
from fixtures.inputs import RETROCARE
from fixtures.numbers import Numbers, read_number
from fixtures.processes import until
from fixtures.records import NOON, Records
from fixtures.running import RecordingHost, number_worker, recorded_call, running, settings_for
from retrocare.checks.budget import RequestBudget
from retrocare.checks.inference import Inference
from retrocare.checks.pipeline import run_check
from retrocare.checks.retry import backoff
from retrocare.checks.voiceprint import Voiceprint, VoiceprintFactory
from retrocare.cli.server import watched
from retrocare.database.connection import connected
from retrocare.errors import Unavailable

PATIENCE_SECONDS = 60


def after(release: threading.Event) -> VoiceprintFactory:
    """Give what makes no voiceprint before it is released."""

    def make(*arguments: object) -> Voiceprint:
        release.wait(PATIENCE_SECONDS)
        return read_number(*arguments)  # type: ignore[arg-type]

    return make


def states(records: Records) -> list[str]:
    return [row["state"] for row in records.rows("select state from care.checks order by id")]


def test_every_queued_call_comes_to_its_end(records: Records, host: RecordingHost) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    for content in ("0.9", "-0.5", "0.5"):
        recorded_call(records, host, content, patient_id)
    with number_worker(records.database, host):
        until(lambda: records.all_checks_ended)
    assert states(records) == ["enrolled", "scored", "scored", "scored"]
    assert records.one("select level from public.caregiver_alerts") == "critical"


def test_a_wake_up_is_followed_at_once_and_without_one_the_list_is_looked_at(
    records: Records, host: RecordingHost
) -> None:
    with number_worker(records.database, host, poll_seconds=30.0) as made:
        time.sleep(0.5)
        recorded_call(records, host)
        begun = time.monotonic()
        made.wake()
        until(lambda: records.all_checks_ended)
        assert time.monotonic() - begun < 10
    with number_worker(records.database, host, poll_seconds=0.2):
        time.sleep(0.5)
        recorded_call(records, host)
        until(lambda: records.all_checks_ended)


def test_recordings_are_fetched_while_another_is_encoded(records: Records, host: RecordingHost) -> None:
    asked: list[float] = []
    release = threading.Event()

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        asked.append(time.monotonic())
        handler.send_error(503)

    for number in range(4):
        recorded_call(records, host)
        host.answers[f"{number}"] = refuse
    host.answers.pop("0")
    with number_worker(records.database, host, after(release), worker_lanes=3):
        until(lambda: len(asked) >= 3)
        assert states(records)[0] == "leased"
        release.set()
        until(lambda: states(records)[0] == "enrolled")


def test_no_more_is_held_than_there_are_lanes(records: Records, host: RecordingHost) -> None:
    release = threading.Event()
    for _ in range(6):
        recorded_call(records, host)
    with number_worker(records.database, host, after(release), worker_lanes=2):
        until(lambda: states(records).count("leased") == 2)
        time.sleep(0.5)
        assert states(records).count("leased") == 2
        release.set()
        until(lambda: records.all_checks_ended)


def test_leases_are_renewed_during_long_work(records: Records, host: RecordingHost) -> None:
    release = threading.Event()
    recorded_call(records, host)
    with number_worker(records.database, host, after(release), lease_seconds=1.0):
        until(lambda: states(records) == ["leased"])
        time.sleep(2.5)
        assert records.one("select leased_until > now() from care.checks")
        release.set()
        until(lambda: records.all_checks_ended)
    assert records.row("select state, attempts from care.checks") == {"state": "enrolled", "attempts": 1}


def test_a_worker_that_stops_finishes_or_gives_back_what_it_holds(records: Records, host: RecordingHost) -> None:
    release = threading.Event()
    for _ in range(3):
        recorded_call(records, host)
    with number_worker(records.database, host, after(release), worker_lanes=2) as made:
        until(lambda: states(records).count("leased") == 2)
        begun = time.monotonic()
        made.stop(1.0)
        assert time.monotonic() - begun < 8
        assert records.rows("select distinct state, attempts, worker from care.checks") == [
            {"state": "queued", "attempts": 0, "worker": None}
        ]
        release.set()
    with number_worker(records.database, host):
        until(lambda: records.all_checks_ended)
    assert records.one("select count(*) from voice.embeddings") == 3


def test_a_database_that_goes_away_is_waited_for(records: Records, host: RecordingHost) -> None:
    with number_worker(records.database, host):
        recorded_call(records, host)
        until(lambda: records.all_checks_ended)
        for _ in range(3):
            records.database.admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'retrocare'"
            )
            recorded_call(records, host)
            until(lambda: records.all_checks_ended)
    assert set(states(records)) == {"enrolled"}


def test_an_end_is_offered_until_the_database_takes_it(records: Records, host: RecordingHost) -> None:
    """The database refuses connections while the voice is encoded: the end is told when it is back, and told once."""
    encoding = threading.Event()
    name = records.database.name

    def make(*arguments: object) -> Voiceprint:
        encoding.set()
        time.sleep(0.5)
        return read_number(*arguments)  # type: ignore[arg-type]

    recorded_call(records, host)
    admin = psycopg.connect(make_conninfo(records.database.admin_url, dbname="template1"), autocommit=True)
    with admin, number_worker(records.database, host, make):
        assert encoding.wait(PATIENCE_SECONDS)
        admin.execute(f"alter database {name} allow_connections false".encode())
        admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'retrocare'")
        time.sleep(1.5)
        admin.execute(f"alter database {name} allow_connections true".encode())
        until(lambda: records.all_checks_ended)
    assert records.row("select state, attempts from care.checks") == {"state": "enrolled", "attempts": 1}


def test_the_times_of_the_patients_speech_reach_whoever_decodes(records: Records, host: RecordingHost) -> None:
    told = []

    def make(*arguments: object) -> Voiceprint:
        told.append(arguments[-1])
        return read_number(*arguments)  # type: ignore[arg-type]

    call_log_id = recorded_call(records, host)
    records.do("update public.call_logs set speech_intervals = '[[1, 2.5]]' where id = %s", call_log_id)
    with number_worker(records.database, host, make):
        until(lambda: records.all_checks_ended)
    assert told == [((1.0, 2.5),)]


def test_a_thread_that_ends_turns_readyz_red_and_fails_who_waits(database: Database) -> None:
    with running(database) as app:

        def die() -> None:
            raise SystemExit

        with pytest.raises(Unavailable) as raised:
            app.service.inference.run(die)
        assert raised.value.code == "inference_ended"
        answer = app.client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "inference_ended")
        answer = app.client.post("/embed", files={"file": b"x"})
        assert (answer.status_code, answer.json()["code"]) == (503, "inference_ended")
        assert app.client.get("/health").status_code == 200


def test_a_thread_that_hangs_is_no_living_one() -> None:
    inference = Inference(Numbers(), hung_seconds=0.2)
    release = threading.Event()
    with pytest.raises(Unavailable) as raised:
        inference.run(lambda: release.wait(PATIENCE_SECONDS), wait_seconds=0.5)
    assert raised.value.code == "deadline_exceeded"
    assert not inference.is_alive
    release.set()
    until(lambda: inference.is_alive)
    inference.stop()


def test_backoff_doubles_up_to_its_longest_and_differs_from_worker_to_worker() -> None:
    waits = [wait for wait, _ in zip(backoff(1.0, 8.0), range(6), strict=False)]
    for wait, middle in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.8 * middle <= wait <= 1.2 * middle
    assert waits[4] != waits[5]


# Whole processes.


def process(database: Database, *words: str, **settings: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "DATABASE_URL": database.service_url, "RETROCARE_ENCODER": "ge2e"}
    environment |= {"PYTHONFAULTHANDLER": "1", **settings}  # a process that aborts says where
    command = [RETROCARE, *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def events(running_process: subprocess.Popen[str], wanted: str) -> list[dict[str, object]]:
    """Read the log up to the event that is wanted."""
    assert running_process.stderr is not None
    found: list[dict[str, object]] = []
    for line in running_process.stderr:
        if line.startswith("{"):
            found.append(json.loads(line))
            if found[-1]["event"] == wanted:
                return found
    raise AssertionError(f"{wanted} was never told: {found}")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_process_ends_within_ten_seconds(database: Database, end: signal.Signals) -> None:
    started = process(database, "worker")
    try:
        events(started, "worker_started")
        begun = time.monotonic()
        started.send_signal(end)
        assert started.wait(30) == 0
        assert time.monotonic() - begun < 10
    finally:
        started.kill()
        started.communicate()


def test_a_worker_whose_encoder_is_not_the_active_one_does_not_start(records: Records) -> None:
    started = process(records.database, "worker")
    _, told = started.communicate(timeout=PATIENCE_SECONDS)
    assert (started.returncode, "encoder_not_active" in told) == (1, True), told


def test_start_works_on_the_list_as_well_and_is_woken_over_http(database: Database, host: RecordingHost) -> None:
    records = Records(database)
    free = "0"
    started = process(database, "start", "--port", free, RETROCARE_POLL_SECONDS="30", **private(host))
    try:
        assert started.stderr is not None
        lines = iter(started.stderr)
        address = next(json.loads(line)["url"] for line in lines if '"event": "ready"' in line)
        from retrocare.cli.demo import RECORDINGS

        url = host.offer("monday.flac", RECORDINGS / "01-enrol-monday.flac")
        records.call_log(records.patient(), NOON, "provider", url)
        assert httpx.post(f"{address}/wake").json() == {"worker": True}
        until(lambda: records.all_checks_ended)
        assert states(records) == ["enrolled"]
        shown = httpx.get(f"{address}/metrics").text
        assert 'retrocare_outcomes_total{reason="",state="enrolled"} 1.0' in shown
        assert 'retrocare_encoder_info{encoder="ge2e-v2"} 1.0' in shown
    finally:
        started.terminate()
        assert started.wait(30) == 0
        started.communicate()


def private(host: RecordingHost) -> dict[str, str]:
    return {"RETROCARE_FETCH_PRIVATE_HOSTS": host.named}


def test_a_log_line_has_the_call_and_milliseconds_and_nothing_that_identifies(
    database: Database, host: RecordingHost
) -> None:
    from retrocare.cli.demo import RECORDINGS

    records = Records(database)
    records.register("ge2e-v2", 256)
    url = host.offer("monday.flac", RECORDINGS / "01-enrol-monday.flac") + "?token=secret"
    call_log_id = records.call_log(records.patient(), NOON, "provider", url)
    started = process(database, "worker", **private(host))
    try:
        told = events(started, "check_ended")
    finally:
        started.terminate()
        _, rest = started.communicate(timeout=30)
    steps = [line for line in told if line.get("call_log_id") == str(call_log_id)]
    assert [line["event"] for line in steps] == ["claimed", "fetch", "voiceprint", "complete", "check_ended"]
    assert all(isinstance(line["ms"], float) for line in steps[1:4])
    assert "secret" not in json.dumps(told) + rest
    assert "Ana" not in json.dumps(told) + rest


def test_the_end_of_a_thread_ends_the_process(database: Database) -> None:
    with running(database) as app:
        ended = threading.Event()
        with watched(app.service, ended.set):
            assert not ended.wait(1.5)

            def die() -> None:
                raise SystemExit

            with pytest.raises(Unavailable):
                app.service.inference.run(die)
            assert ended.wait(PATIENCE_SECONDS)
        with pytest.raises(Unavailable):
            app.service.check_threads()


def test_the_end_of_a_workers_lane_ends_the_process_too(records: Records, host: RecordingHost) -> None:
    with number_worker(records.database, host) as made:
        assert made.is_alive
        records.do("drop function voice.claim_checks")
        records.do(
            """create function voice.claim_checks(encoder text, worker text, count integer, lease_seconds float)
               returns setof voice.claim language plpgsql
               as $$ begin raise exception 'broken' using errcode = 'XX000'; end $$"""
        )
        records.do("grant execute on function voice.claim_checks to retrocare_service")
        until(lambda: not made.is_alive)


@pytest.mark.parametrize(("recording_ref", "state"), [(None, "dead"), ("https://example.org/x", "queued")])
def test_an_interruption_gives_the_check_back_or_says_that_the_upload_is_lost(
    records: Records, recording_ref: str | None, state: str
) -> None:
    def interrupt() -> bytes:
        raise KeyboardInterrupt

    records.call_log(records.patient(), NOON, "upload", recording_ref)
    with connected(settings_for(records.database)) as database:
        claim = database.open_recording(
            encoder="test-v1",
            worker="test",
            lease_seconds=60,
            patient_id=records.one("select id from public.patients"),
            call_log_id=records.one("select id from public.call_logs"),
        )
        inference = Inference(Numbers())
        with pytest.raises(KeyboardInterrupt):
            run_check(claim, interrupt, inference, database, RequestBudget())
        inference.stop()
    assert states(records) == [state]
