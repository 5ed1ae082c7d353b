"""Wake-ups and the clock. pg_net, Vault and pg_cron are on Supabase only: tables and a view stand for them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fixtures.databases import Database
from fixtures.records import NOON, Records, at_cosine
from retrocare.database.migrations import migrate

STAND_INS = """
create schema net;
create table net.posts (url text, body jsonb, headers jsonb, timeout_milliseconds integer);
create function net.http_post(url text, body jsonb default '{}', params jsonb default '{}',
    headers jsonb default '{}', timeout_milliseconds integer default 5000)
returns bigint language sql as $$
    insert into net.posts values (url, body, headers, timeout_milliseconds) returning 1::bigint
$$;
create schema vault;
create view vault.decrypted_secrets as
    select 'python_service_url' as name, 'https://voice.example.org/' as decrypted_secret
    union all select 'retrocare_api_key', 'a key'
    union all select 'retrocare_functions_url', 'https://project.example.org/functions/v1'
    union all select 'retrocare_functions_key', 'another key';
grant usage on schema net, vault to postgres;
grant insert on net.posts to postgres;
grant select on vault.decrypted_secrets to postgres;
"""


@pytest.fixture
def awake(records: Records) -> Records:
    records.database.admin.execute(STAND_INS)
    return records


def posts(records: Records) -> list[tuple[str, str, int]]:
    return records.database.admin.execute(
        "select url, headers ->> 'Authorization', timeout_milliseconds from net.posts"
    ).fetchall()


def queue(records: Records, calls: int = 1) -> None:
    records.do(
        """insert into public.call_logs (patient_id, "timestamp", recording_ref)
           select %s, %s, 'https://example.org/' || n from generate_series(1, %s) as n""",
        records.patient(),
        NOON,
        calls,
    )


def test_a_new_check_rings_at_the_service_with_its_key(awake: Records) -> None:
    queue(awake)
    assert posts(awake) == [("https://voice.example.org/wake", "Bearer a key", 2000)]


FUNCTIONS = "https://project.example.org/functions/v1/"


def test_a_reported_call_wakes_the_collection_with_the_functions_key(awake: Records) -> None:
    awake.report("call-1", patient_id=awake.patient())
    assert posts(awake) == [(FUNCTIONS + "collect-recordings", "Bearer another key", 2000)]


def test_a_new_alert_wakes_the_sender_in_the_same_transaction(awake: Records) -> None:
    patient_id = awake.patient()
    awake.caregiver(patient_id)
    awake.judge(patient_id)
    awake.database.admin.execute("delete from net.posts")
    awake.judge(patient_id, at_cosine(0.5))
    assert (FUNCTIONS + "notify-caregiver", "Bearer another key", 2000) in posts(awake)


def test_every_minute_the_functions_are_woken_only_where_work_is_due(awake: Records) -> None:
    patient_id = awake.patient()
    awake.caregiver(patient_id)
    awake.judge(patient_id)
    awake.judge(patient_id, at_cosine(0.5))
    now = datetime.now(UTC)
    awake.report("call-1", patient_id=patient_id, started_at=now, ended_at=now, at=now)
    awake.database.admin.execute("delete from net.posts")
    awake.do("select care.wake_functions()")
    assert [url for url, _, _ in posts(awake)] == [FUNCTIONS + "collect-recordings", FUNCTIONS + "notify-caregiver"]
    awake.database.admin.execute("delete from net.posts")
    awake.do("update care.deliveries set run_at = now() + interval '1 hour'")
    awake.do("update care.recordings set run_at = now() + interval '1 hour'")
    awake.do("select care.wake_functions()")
    assert posts(awake) == []


def test_where_pg_cron_exists_each_job_is_scheduled_by_itself_and_so_is_reconciliation(
    empty_database: Database,
) -> None:
    empty_database.admin.execute(
        """create schema cron;
           create table cron.job (jobname text primary key, schedule text, command text);
           create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as $$
               insert into cron.job values (job_name, schedule, command)
               on conflict (jobname) do update set schedule = excluded.schedule returning 1::bigint
           $$;
           grant usage on schema cron to postgres;
           grant select, insert, update on cron.job to postgres;"""
    )
    empty_database.admin.execute(STAND_INS.encode())
    migrate(empty_database.owner_url)
    jobs = empty_database.admin.execute("select jobname, schedule, command from cron.job order by 1").fetchall()
    scheduled = {name: schedule for name, schedule, _ in jobs}
    assert scheduled["retrocare-reconcile-calls"] == "*/5 * * * *"
    assert scheduled["retrocare-wake-functions"] == scheduled["retrocare-advance-alerts"] == "* * * * *"
    assert scheduled["retrocare-delete-old-recordings"] == "*/10 * * * *"
    assert empty_database.owner.execute("select 2 + count(*) from care.jobs").fetchone() == (len(scheduled),)
    assert empty_database.owner.execute("select care.schedule_jobs()").fetchone() == (True,)  # and again
    for _, _, command in jobs:
        empty_database.owner.execute(command)
    awake = empty_database.admin.execute("select url, body from net.posts").fetchall()
    assert awake == [(FUNCTIONS + "collect-recordings", {"reconcile": True})]


def test_without_pg_net_and_vault_a_check_is_queued_all_the_same(records: Records) -> None:
    queue(records)
    assert records.one("select state from care.checks") == "queued"


@pytest.mark.parametrize(
    "breakage",
    [
        "drop view vault.decrypted_secrets",
        "create or replace view vault.decrypted_secrets as select ''::text as name, null::text as decrypted_secret",
        "drop table net.posts",
        "revoke usage on schema vault from postgres",
        "revoke usage on schema net from postgres",
    ],
)
def test_a_broken_wake_up_never_keeps_a_check_from_being_queued(awake: Records, breakage: str) -> None:
    awake.database.admin.execute(breakage.encode())
    queue(awake)
    assert awake.one("select state from care.checks") == "queued"


def test_whoever_deletes_many_recordings_wakes_the_deletion_once_a_transaction(awake: Records) -> None:
    patient_id = awake.patient()
    for number in range(5):
        awake.call_log(patient_id, recording_ref=f"storage:voice-recordings/{patient_id}/{number}.wav")
    awake.database.admin.execute("delete from net.posts")
    awake.rpc("erase_patient_voice", patient_id=patient_id, reason="asked")
    assert awake.one("select count(*) from care.deletions") == 5
    assert [url for url, _, _ in posts(awake)] == [FUNCTIONS + "delete-recordings"]
    awake.call_log(awake.patient(), recording_ref="https://example.org/a.wav")
    assert len(posts(awake)) == 2, "the next transaction wakes again"
