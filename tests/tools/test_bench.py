"""``scripts/bench``, small: what it measures is there to be measured, and what it looks for it finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path

from bench import scale, search
from bench.__main__ import WHAT
from bench.history import DIMENSION, ENCODER, TABLES, load_calls
from bench.views import bench_views, failures, shown
from fixtures.databases import Database, Server
from fixtures.inputs import ROOT
from fixtures.records import Records

SCRIPT = ROOT / "scripts" / "bench"


def test_the_views_are_read_at_each_size_and_have_rows(database: Database) -> None:
    told: list[str] = []
    small, large = bench_views(database, patients=40, calls=(10, 30), runs=3, tell=told.append)
    assert (small.calls, large.calls) == (400, 1_200)
    rows = {read.name: read.rows for read in large.reads}
    assert (rows["caregiver_patients, all"], rows["caregiver_patients, one"]) == (20, 1)
    assert (rows["voice_timeline, newest 100"], rows["recent_anomaly_logs, newest 100"]) == (30, 100)
    assert rows["alert_history, newest 100"] <= 1 <= rows["alert_history, inbox"] <= 20
    assert told[-1].strip().startswith("1,200 calls measured")
    assert len(shown([small, large]).splitlines()) == 1 + len(large.reads)


def test_a_plan_that_reads_a_large_table_from_end_to_end_is_found(database: Database) -> None:
    database.owner.execute("drop index call_logs_by_patient, call_logs_heard, call_logs_unheard")
    sizes = bench_views(database, patients=400, calls=(30,), runs=2, tell=lambda _: None)
    assert "voice_timeline, newest 100: reads all of call_logs" in failures(sizes)


def test_how_it_is_used_is_said() -> None:
    asked = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    for what in WHAT:
        assert f"\n  {what} " in asked.stdout
    refused = subprocess.run([SCRIPT, "everything"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "nothing is called 'everything'" in refused.stderr) == (2, True)


def test_voices_are_searched_for_as_the_data_api_does_and_found(server: Server) -> None:
    told: list[str] = []
    asked_for: list[str] = []

    def serve(shared_buffers: str) -> AbstractContextManager[Server]:
        asked_for.append(shared_buffers)
        return nullcontext(server)

    small, nothing = search.bench_search(serve, 200, queries=20, breadths=(), tell=told.append)
    assert (asked_for, nothing) == (["2GB", "1GB"], [])
    large, tried = search.bench_search(serve, 800, queries=20, breadths=(20, 100), tell=told.append)
    assert asked_for[2:] == ["2GB", "128MB", "1GB", "1GB"]
    assert (small.voices, large.voices) == (200, 800)
    assert small.recall_at_1 == large.recall_at_1 == 1
    assert 0 < large.index_bytes < 8_000_000
    assert 0 < large.p50_ms <= large.p95_ms
    assert min(large.completion_ms, large.completion_without_ms, large.nobody_p95_ms) > 0
    assert [(one.shared_buffers, one.breadth) for one in tried] == list(product(("128MB", "1GB"), (20, 100)))
    assert all(one.pages > 100 > one.pages_missed for one in tried)
    assert tried[0].pages != tried[1].pages  # the breadth is the search's
    assert all(one.voices == 800 and one.recall_at_1 == 1 and 0 < one.p50_ms <= one.p95_ms for one in tried)
    assert len(search.shown([small, large], tried).splitlines()) == 3 + 2 + 4
    assert told[0].strip().startswith("200 voices loaded")


def test_the_work_is_done_beside_few_calls_and_beside_many(server: Server) -> None:
    few, many = scale.bench_scale(server, sizes=(1_000, 2_000), runs=30, tell=lambda _: None)
    assert (few.calls, many.calls, many.patients) == (1_000, 2_000, 100)
    assert set(many.took) == {"claim", "completion", scale.FIRST, *scale.READS}
    assert all(0 < took.p50_ms <= took.p95_ms for took in many.took.values())
    assert many.bytes_per_call["voice.embeddings"] > 4 * 192
    assert many.bytes_per_call["care.checks_by_call"] > 0
    # A claim and an end write indexes, as they change the state; a score alone does not.
    assert (many.hot_shares["care.checks"], many.hot_shares["call_logs"] > 0) == (0, True)
    assert "voice.embeddings" in scale.shown([few, many])


def test_the_calls_that_are_loaded_are_whole(server: Server) -> None:
    with server.clone(server.migrated_template) as database:
        Records(database).register(ENCODER, DIMENSION)
        load_calls(database.admin, 20, 6)
        [read] = database.admin.execute(
            """select array[count(*), count(distinct patient_id), count(score), count(similarity), count(quality),
                   count(days_since_previous), count(*) filter (where usual_until > 0.1)] from voice_timeline"""
        ).fetchall()
        assert read == ([120, 20, 120, 120, 120, 100, 120],)
        for table, name, rule in database.admin.execute(
            """select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
               where contype = 'f' and conrelid = any (%s::text[]::regclass[])""",
            [list(TABLES)],
        ).fetchall():  # made anew, a rule is asked of every row
            database.admin.execute(f"alter table {table} drop constraint {name}, add constraint {name} {rule}".encode())
        broken = database.admin.execute(
            "select count(*) from pg_index where not indisvalid or not indisready"
        ).fetchone()
        assert broken == (0,)


def test_a_measurement_that_is_interrupted_leaves_nothing_behind() -> None:
    before = set(Path("/var/tmp").glob("rc-*"))
    command = [sys.executable, "-m", "bench", "search", "--voices", "50000"]
    path = os.pathsep.join(str(ROOT / folder) for folder in ("tools", "tests", "service"))
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as running:
        assert running.stdout
        while b"loaded" not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    assert set(Path("/var/tmp").glob("rc-*")) <= before
