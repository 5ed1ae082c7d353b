"""From one release to the next while the service runs; and from a backup back to what may still be known."""

from __future__ import annotations

import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from fixtures.commands import in_process
from fixtures.databases import Database, Server
from fixtures.next_release import NextRelease
from fixtures.populated import populated_patient
from fixtures.processes import until
from fixtures.records import ENCODER, Records
from fixtures.running import RecordingHost, number_worker, recording_host, settings_for
from releases.catalog import catalog, differences
from retrocare.database.connection import connected
from retrocare.database.migrations import MIGRATIONS, migrate
from retrocare.database.programs import find_programs

CALLS_AROUND = 15  # so many come to their end before the upgrade, and after it
TABLES = """
select oid::regclass::text from pg_class
where relkind = 'r' and relnamespace::regnamespace::text not in ('storage', 'auth', 'supabase_migrations')
    and relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
order by 1
"""

UNFINISHED = "select from care.checks where state = 'leased' or (state = 'queued' and run_at < 'infinity')"


def rows_of(records: Records) -> dict[str, list[dict[str, Any]]]:
    """Read every row of every table."""
    return {
        table: [row for (row,) in records.database.owner.execute(f"select to_jsonb(o) from {table} as o".encode())]
        for [table] in records.database.owner.execute(TABLES).fetchall()
    }


class Caller:
    """Calls that keep coming, as an integrator writes them: each a row, and nothing is tried twice."""

    def __init__(self, records: Records, host: RecordingHost, patient_id: UUID) -> None:
        self.calls: list[UUID] = []
        self.failure: psycopg.Error | None = None
        self._end = threading.Event()
        self._make = (records.database.service_url, host, patient_id)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        url, host, patient_id = self._make
        with psycopg.connect(url, autocommit=True) as connection:
            while not self._end.wait(0.02):
                address = host.offer(f"call-{len(self.calls)}", f"0.9 {len(self.calls)}".encode())
                values = {
                    "patient_id": patient_id, "call_log_id": None, "source": "provider", "recording_ref": address,
                    "recording_channel": None, "occurred_at": datetime.now(UTC), "enrolment_id": None,
                }  # fmt: skip
                names = ", ".join(f"{name} => %s" for name in values)
                try:
                    made = connection.execute(f"select care.record_call({names})".encode(), list(values.values()))
                except psycopg.Error as error:
                    self.failure = error
                    return
                self.calls.extend(call_log_id for (call_log_id,) in made.fetchall())

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def ended(records: Records) -> int:
    found: int = records.one("select count(*) from care.checks where state in ('scored', 'enrolled')")
    return found


def make_up(release: NextRelease) -> None:
    """Change what this release's service uses: a table, an enum, a view, a policy, and functions that it calls."""
    release.replace(
        r"(create view public\.check_status\n.*?)(\nfrom )", r"\1,\n    checks.created_at as first_seen_at\2"
    )
    release.replace(
        r"(create function \w+\.complete_check\([^)]*?)(\n    at timestamptz)", r"\1\n    remark text default null,\2"
    )
    release.add("""
        alter table public.call_logs add column mood_score double precision not null default 0.5;
        comment on column public.call_logs.mood_score is 'How the patient sounded: 0 low, 1 high.';
        alter type public.call_source add value 'video';
        create policy nobody_sees_low_moods on public.call_logs as restrictive for select to authenticated
            using (mood_score >= 0);
        -- Another function of the same name; the signature of the release before is kept beside it.
        create function voice.claim_checks(
            encoder text, worker text, count integer, lease_seconds double precision, lane integer
        )
        returns setof voice.claim
        language sql volatile security definer set search_path = pg_catalog, pg_temp
        as $$
            select * from voice.claim_checks(claim_checks.encoder, claim_checks.worker, claim_checks.count,
                claim_checks.lease_seconds)
        $$;
        comment on function voice.claim_checks(text, text, integer, double precision, integer) is 'For one lane.';
        revoke execute on function voice.claim_checks(text, text, integer, double precision, integer) from public;
    """)


def test_a_running_service_and_its_data_survive_the_next_release(database: Database, next_release: NextRelease) -> None:
    make_up(next_release)
    draft, left = next_release.draft()
    assert left == []
    # By hand, in another order than that in which whoever writes takes locks: the patient comes first there.
    draft.write_text(draft.read_text() + "update public.patients set name = name;")
    records = Records(database)
    records.register()
    populated_patient(records)
    records.do("update care.checks set run_at = 'infinity' where state = 'queued'")  # of recordings that nobody serves
    patient_id = records.patient()
    before = rows_of(records)
    with (
        recording_host() as host,
        number_worker(database, host, poll_seconds=0.05) as worker,
        Caller(records, host, patient_id) as caller,
    ):
        already = ended(records)
        until(lambda: ended(records) >= already + CALLS_AROUND, seconds=60)
        assert len(migrate(database.owner_url, folder=next_release.migrations)) == 1
        already = ended(records)
        until(lambda: caller.failure or ended(records) >= already + CALLS_AROUND, seconds=60)
        caller.stop()
        assert caller.failure is None
        until(lambda: not records.one(f"select count(*) from ({UNFINISHED}) as unfinished"), seconds=60)
        assert worker.is_alive
    ends = records.rows("select id, check_state from public.call_logs where id = any (%s)", caller.calls)
    assert {row["id"] for row in ends} == set(caller.calls)
    assert {row["check_state"] for row in ends} <= {"scored", "enrolled"}
    after = rows_of(records)
    for table, rows in before.items():
        kept = [{name: value for name, value in row.items() if name != "mood_score"} for row in after[table]]
        assert [row for row in rows if row not in kept] == [], table
    with connected(settings_for(database)) as opened:
        assert opened.release()["version"] == "1.1.0"
        assert opened.check_list(["scored"], patient_id, 1)[0]["model"] == ENCODER


def test_whoever_writes_during_an_upgrade_waits_and_is_not_refused(database: Database, tmp_path: Path) -> None:
    """The patient is locked before the call: without more, call and migration would wait for each other."""
    shutil.copytree(MIGRATIONS, tmp_path / "migrations")
    (tmp_path / "migrations" / "20990101000000_retrocare_9_0_0.sql").write_text(
        "alter table public.call_logs add column later integer; select pg_sleep(0.5);"
        "update public.patients set name = name;"
    )
    records = Records(database)
    records.register()
    claim = records.open(records.call_log(records.patient()))
    changing = (
        "select exists (select from pg_locks where relation = 'public.call_logs'::regclass"
        " and mode = 'AccessExclusiveLock' and granted)"
    )
    with ThreadPoolExecutor() as threads:
        upgrade = threads.submit(migrate, database.owner_url, folder=tmp_path / "migrations")
        until(lambda: records.one(changing), seconds=20)
        assert records.complete(claim)["state"] == "enrolled"
        assert len(upgrade.result()) == 1


ERASED = "select distinct patient_id::text, scope::text from care.tombstones order by 1, 2"


def test_a_restored_backup_is_usable_and_forgets_again_whom_it_must(
    database: Database, server: Server, tmp_path: Path
) -> None:
    """pg_dump, an erasure, a restore into a new database, the tombstones replayed."""
    records = Records(database)
    records.register()
    made = populated_patient(records)
    erased, kept = made.patient_id, records.patient()
    records.enrol(kept, *[(1.0, 0.0, 0.0)] * 3)
    programs = find_programs(18, tmp_path / "data").folder
    backup = tmp_path / "backup.sql"
    dump = [str(programs / "pg_dump"), f"--dbname={database.admin_url}", f"--file={backup}"]
    subprocess.run(dump, check=True, timeout=60)
    run = in_process(DATABASE_URL=database.service_url)
    assert run("patient", "erase", str(erased), "--reason", "asked for", "--yes").returncode == 0
    tombstones = tmp_path / "tombstones"
    tombstones.write_text(run("tombstones").stdout)
    wanted = rows_of(records)
    with server.clone("template0") as other:
        restored = Records(other)
        psql = [str(programs / "psql"), f"--dbname={other.admin_url}", "--quiet", "--set=ON_ERROR_STOP=1"]
        subprocess.run([*psql, f"--file={backup}"], check=True, timeout=60, stdout=subprocess.DEVNULL)
        assert migrate(other.owner_url) == []
        assert restored.one("select count(*) from voice.embeddings where patient_id = %s", erased) > 0
        run = in_process(DATABASE_URL=other.service_url)
        assert run("tombstones", "--replay", str(tombstones), "--yes").returncode == 0
        assert restored.one("select count(*) from voice.embeddings where patient_id = %s", erased) == 0
        assert restored.one("select count(*) from voice.baselines where patient_id = %s", erased) == 0
        assert restored.rows(ERASED) == records.rows(ERASED)
        assert [row for row in wanted["voice.embeddings"] if row["patient_id"] == str(kept)] == [
            row for row in rows_of(restored)["voice.embeddings"] if row["patient_id"] == str(kept)
        ]
        left = differences(catalog(other.owner), catalog(database.owner))
        assert [line for line in left if ": row " not in line] == []
        assert restored.judge(kept)["state"] == "scored"
