"""What time makes due is done job by job: a slow one, or a row that cannot be done, keeps nothing else waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fixtures.records import NOON, Records, at_cosine

LATER = NOON + timedelta(days=400)
URGENT = [
    "advance_alerts",
    "cancel_deliveries",
    "note_silences",
    "end_silences",
    "expire_recordings",
    "redecide_calls",
    "match_calls",
    "reassign_checks",
]


def jobs(records: Records) -> list[str]:
    return [row["id"] for row in records.rows("select id from care.jobs order by position")]


def alarm(records: Records, similarity: float = 0.5) -> UUID:
    patient_id = records.patient()
    records.caregiver(patient_id)
    records.judge(patient_id)
    records.judge(patient_id, at_cosine(similarity))
    return patient_id


# For each job: makes two things due and gives the table and the key of the one that will be poisoned.


def two_alerts(records: Records) -> tuple[str, Any]:
    alarm(records), alarm(records)
    return "public.caregiver_alerts", records.one("select min(id::text) from public.caregiver_alerts")


def two_overtaken_messages(records: Records) -> tuple[str, Any]:
    for patient_id in (alarm(records), alarm(records)):
        records.do(
            "update public.caregiver_alerts set state = 'acknowledged', acknowledged_at = now() where patient_id = %s",
            patient_id,
        )
    return "care.deliveries", records.one("select min(id)::text from care.deliveries")


def two_silences(records: Records) -> tuple[str, Any]:
    for _ in range(2):
        records.judge(records.patient())
    records.do("update public.patients set silent_after_days = 3, voice_consent_at = %s", NOON)
    return "public.caregiver_alerts", records.one("select min(id::text) from public.patients")


def two_ended_silences(records: Records) -> tuple[str, Any]:
    two_silences(records)
    records.run_due_jobs(NOON + timedelta(days=10))
    for patient in records.rows("select id from public.patients"):
        call = records.open(records.call_log(patient["id"], NOON + timedelta(days=11)))
        records.complete(call, at=NOON + timedelta(days=11))
    records.do("update public.patients set silent_after_days = 366")
    return "public.caregiver_alerts", records.one("select min(id::text) from public.caregiver_alerts")


def two_forgotten_recordings(records: Records) -> tuple[str, Any]:
    for number in range(2):
        records.report(f"call-{number}", patient_id=records.patient(), recording_url="https://example.org/a.wav")
    return "care.recordings", records.one("select min(call_log_id::text) from care.recordings")


def two_undecided_calls(records: Records) -> tuple[str, Any]:
    for number in range(2):
        records.report(f"call-{number}", patient_id=records.patient(), ended_reason="beamed-up")
    records.do("insert into care.ended_reasons (pattern, disposition) values ('beamed-up', 'judge')")
    return "public.call_logs", records.one("select min(id::text) from public.call_logs")


def two_matched_calls(records: Records) -> tuple[str, Any]:
    for number in range(2):
        records.report(f"call-{number}", phone=f"+4930000000{number}")
    for number in range(2):
        records.do("update public.patients set phone = %s where id = %s", f"+4930000000{number}", records.patient())
    return "care.unmatched_calls", "call-0"


def two_stranded_checks(records: Records) -> tuple[str, Any]:
    records.register("other-v1", 3)
    for _ in range(2):
        call_log_id = records.call_log(records.patient(), recording_ref="https://example.org/a.wav")
        records.do("update care.checks set model = 'other-v1' where call_log_id = %s", call_log_id)
    return "care.checks", records.one("select min(id)::text from care.checks")


def two_old_recordings(records: Records) -> tuple[str, Any]:
    for number in range(2):
        call_log_id = records.call_log(records.patient(), recording_ref=f"storage:voice-recordings/{uuid4()}/{number}")
        records.complete(records.open(call_log_id))
    return "public.call_logs", records.one("select min(id::text) from public.call_logs")


def two_old_voiceprints(records: Records) -> tuple[str, Any]:
    for _ in range(2):
        patient_id = records.patient()
        records.judge(patient_id)
        records.judge(patient_id, at_cosine(0.5))
    records.do("update voice.embeddings set created_at = created_at - interval '2 years'")
    old = "select min(embedding_id)::text from public.voice_anomaly_logs"
    return "voice.embeddings", records.one(old)


def two_old_baselines(records: Records) -> tuple[str, Any]:
    for _ in range(2):
        records.enrol(records.patient(), (1, 0, 0), (1, 0, 0))
    records.do("update voice.baselines set superseded_at = superseded_at - interval '3 years'")
    return "voice.baselines", records.one("select min(id)::text from voice.baselines where superseded_at is not null")


def two_old_reports(records: Records) -> tuple[str, Any]:
    for number in range(2):
        records.report(f"call-{number}", phone="+49301")
    return "care.unmatched_calls", "call-0"


def two_old_errors(records: Records) -> tuple[str, Any]:
    claim = records.open(records.call_log(records.patient(), recording_ref="https://example.org/a.wav"))
    for _ in range(2):
        records.do(
            "insert into care.check_errors (check_id, attempt, code, message) values (%s, 1, 'x', 'x')",
            claim["check_id"],
        )
    records.do("update care.check_errors set occurred_at = %s", NOON)
    return "care.check_errors", records.one("select min(id)::text from care.check_errors")


def two_old_messages(records: Records) -> tuple[str, Any]:
    alarm(records), alarm(records)
    records.do("update care.deliveries set state = 'dead', finished_at = %s", NOON)
    return "care.deliveries", records.one("select min(id)::text from care.deliveries")


def two_old_keys(records: Records) -> tuple[str, Any]:
    patient_id = records.patient()
    for key in ("one", "two"):
        records.call("record_call", patient_id, None, "api", None, None, None, None, "caller", key, b"\0" * 32)
    return "care.idempotency_keys", "one"


DUE = {
    "advance_alerts": (two_alerts, "id::text"),
    "cancel_deliveries": (two_overtaken_messages, "id::text"),
    "note_silences": (two_silences, "patient_id::text"),
    "end_silences": (two_ended_silences, "id::text"),
    "expire_recordings": (two_forgotten_recordings, "call_log_id::text"),
    "redecide_calls": (two_undecided_calls, "id::text"),
    "match_calls": (two_matched_calls, "provider_call_id"),
    "reassign_checks": (two_stranded_checks, "id::text"),
    "delete_old_recordings": (two_old_recordings, "id::text"),
    "delete_old_voiceprints": (two_old_voiceprints, "id::text"),
    "delete_old_baselines": (two_old_baselines, "id::text"),
    "delete_old_unmatched_calls": (two_old_reports, "provider_call_id"),
    "delete_old_errors": (two_old_errors, "id::text"),
    "delete_old_deliveries": (two_old_messages, "id::text"),
    "delete_old_idempotency_keys": (two_old_keys, "key"),
}


def poison(records: Records, table: str, key: str, value: Any) -> None:
    """Let every change of one row fail."""
    column = key.removesuffix("::text")
    bad = f"(case tg_op when 'INSERT' then new.{column} else old.{column} end)::text = '{value}'"
    records.do(
        f"""create function public.poison() returns trigger language plpgsql as $$
            begin if {bad} then raise exception 'poisoned'; end if; return coalesce(new, old); end $$;
            create trigger aaa_poison before insert or update or delete on {table}
                for each row execute function public.poison()"""
    )


@pytest.mark.parametrize("job", DUE)
def test_a_row_that_fails_becomes_the_operators_and_stops_neither_its_job_nor_another(
    records: Records, job: str
) -> None:
    make, key = DUE[job]
    table, value = make(records)
    poison(records, table, key, value)
    at = NOON + timedelta(days=12) if job == "end_silences" else datetime.now(UTC) + timedelta(days=400)
    assert records.rpc("run_job", job=job, at=at) == [{"run_job": 1}], "the other one of the two"
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "job_failed"]
    assert issue["subject"].startswith(job)
    assert (issue["code"], issue["detail"]) == ("P0001", "poisoned")
    done = records.run_due_jobs(at)
    assert all(records.one("select last_succeeded_at > %s from care.jobs where id = %s", NOON, name) for name in done)
    records.do("drop function public.poison() cascade")
    records.run_due_jobs(at + timedelta(hours=2))
    assert [row for row in records.seen("operator_issues") if row["kind"] == "job_failed"] == []


def test_every_job_is_tried_with_a_poisoned_row(records: Records) -> None:
    assert list(DUE) == jobs(records)


def test_what_presses_comes_before_what_tidies_up(records: Records) -> None:
    assert jobs(records)[: len(URGENT)] == URGENT
    assert [row["due_jobs"] for row in records.rows("select care.due_jobs()")] == URGENT
    assert [row["due_jobs"] for row in records.rows("select care.due_jobs(now() + interval '11 minutes')")] == jobs(
        records
    )


def test_a_poisoned_row_is_tried_again_after_a_wait_that_doubles_and_leaves_room_for_the_others(
    records: Records,
) -> None:
    for _ in range(3):
        alarm(records)
    records.do("update care.jobs set maximum_rows = 1 where id = 'advance_alerts'")
    first = records.one("select id from public.caregiver_alerts order by next_change_at, id limit 1")
    records.do("update public.caregiver_alerts set next_change_at = %s where id = %s", NOON - timedelta(days=1), first)
    poison(records, "public.caregiver_alerts", "id::text", first)
    counts = [records.rpc("run_job", job="advance_alerts", at=LATER)[0]["run_job"] for _ in range(4)]
    assert counts == [0, 1, 1, 0]  # the poisoned one, then the others, then nobody
    assert records.one("select attempts from care.job_failures") == 1
    records.rpc("run_job", job="advance_alerts", at=LATER + timedelta(seconds=13))
    assert records.one("select attempts from care.job_failures") == 2


def test_a_list_that_cannot_be_made_is_the_operators_and_stops_no_other_job(records: Records) -> None:
    alarm(records)
    records.do(
        """create or replace function care.silences_to_note(at timestamptz, maximum_rows integer) returns setof text
           language plpgsql set search_path = pg_catalog, pg_temp as $$ begin raise exception 'broken'; end $$"""
    )
    done = records.run_due_jobs(LATER, failing="note_silences")
    assert (done["note_silences"], done["advance_alerts"]) == (-1, 1)
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "job_failed"]
    assert (issue["subject"], issue["detail"]) == ("note_silences", "broken")


def test_thousands_of_expired_recordings_keep_no_overdue_alert_waiting(records: Records) -> None:
    """Under a statement time-out of three seconds each job still does what fits, and the next run goes on."""
    alarm(records, 0.1)
    patient_id = records.patient()
    records.do(
        """insert into public.call_logs (patient_id, "timestamp", created_at, source, recording_ref)
           select %s, now(), now() - interval '100 days', 'upload', 'storage:voice-recordings/x/' || n
           from generate_series(1, 5000) as n""",
        patient_id,
    )
    records.do(
        "update care.checks set state = 'skipped', reason = 'no_consent', finished_at = now() where patient_id = %s",
        patient_id,
    )
    records.do("update public.call_logs set check_state = 'skipped' where patient_id = %s", patient_id)
    due = datetime.now(UTC)
    records.do("update public.caregiver_alerts set next_change_at = %s", due)
    records.do("set statement_timeout = '3s'")
    left = "select count(*) from public.call_logs where recording_ref is not null"
    before = records.one(left)
    for job in jobs(records):
        records.do("select care.run_job(%s, %s)", job, due)
    assert records.one("select state from public.caregiver_alerts") == "escalated"
    assert 0 < before - records.one(left) <= 500
    done = records.rpc("run_job", job="delete_old_recordings", at=due)[0]["run_job"]
    assert 0 < done <= 500, "the next run goes on"


def test_a_run_ends_when_its_time_is_over_and_keeps_what_it_did(records: Records) -> None:
    for _ in range(4):
        alarm(records)
    records.do("update care.jobs set maximum_seconds = 0.2 where id = 'advance_alerts'")
    records.do(
        """create function public.slow() returns trigger language plpgsql as
           $$ begin perform pg_sleep(0.15); return new; end $$;
           create trigger slow before update on public.caregiver_alerts for each row execute function public.slow()"""
    )
    assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": 2}]
    assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": 2}]


def test_of_two_runs_of_a_job_at_once_one_works_and_another_job_does_too(records: Records) -> None:
    alarm(records)
    with records.database.connect(records.database.owner_url) as other, other.transaction():
        other.execute("select care.run_job('advance_alerts', %s)", [NOON])
        assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": None}]
        assert records.rpc("run_job", job="note_silences", at=LATER) == [{"run_job": 0}]
    assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": 1}]


def test_a_job_waits_for_no_patient_whom_somebody_else_works_on(records: Records) -> None:
    busy = alarm(records)
    alarm(records)
    with records.database.connect(records.database.owner_url) as other, other.transaction():
        other.execute("select care.lock_patient(%s)", [busy])
        records.do("set lock_timeout = '1s'")
        assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": 1}]
    assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": 1}]


def test_one_patients_impossible_row_silences_nobody_else(records: Records) -> None:
    """Rows that were there before the bounds were: an adopted table may hold them."""
    for _ in range(2):
        records.judge(records.patient())
    records.do("update public.patients set silent_after_days = 3, voice_consent_at = %s", NOON)
    for constraint in records.rows(
        """select conname from pg_constraint where conrelid = 'public.patients'::regclass and contype = 'c'"""
    ):
        records.do(f"alter table public.patients drop constraint {constraint['conname']}")
    broken = records.patient()
    records.do("update public.patients set silent_after_days = 999999999 where id = %s", broken)
    records.do("alter table public.patients disable trigger user")
    records.do("update public.patients set voice_consent_at = '-infinity' where id = %s", records.patient())
    assert records.run_due_jobs(NOON + timedelta(days=10))["note_silences"] == 2
    assert {row["cause"] for row in records.seen("silent_patients")} == {"nothing_heard"}


def test_jobs_that_do_not_come_to_their_end_are_the_operators(records: Records) -> None:
    assert records.seen("operator_issues") == []
    records.do("update care.jobs set last_succeeded_at = now() - interval '1 hour' where position < 30")
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["subject"], issue["detail"]) == (
        "jobs_late", "advance_alerts, cancel_deliveries", "2 jobs",
    )  # fmt: skip
    records.run_due_jobs(datetime.now(UTC))
    assert records.seen("operator_issues") == []


def test_a_job_that_is_none_is_refused(records: Records) -> None:
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("run_job", job="make_coffee")
    assert raised.value.sqlstate == "PT404"


def test_a_report_that_cannot_be_read_is_the_operators_and_the_others_are_taken_in(records: Records) -> None:
    two_matched_calls(records)
    records.do(
        "update care.unmatched_calls set report = report || %s where provider_call_id = 'call-0'",
        Jsonb({"patient_id": None, "started_at": "no time"}),
    )
    assert records.run_due_jobs(NOON)["match_calls"] == 1
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "job_failed"]
    assert issue["subject"] == "match_calls vapi/call-0"


def test_a_row_that_somebody_holds_stops_nobody_else(records: Records) -> None:
    first, _ = alarm(records), alarm(records)
    with records.database.connect(records.database.owner_url) as other, other.transaction():
        other.execute("select from public.caregiver_alerts where patient_id = %s for update", [first])
        begun = time.monotonic()
        assert records.rpc("run_job", job="advance_alerts", at=LATER) == [{"run_job": 1}]
        assert time.monotonic() - begun < 10
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "job_failed"]
    assert issue["code"] == "55P03"


def test_a_row_that_takes_longer_than_the_statement_may_stops_nobody_else(records: Records) -> None:
    first, _ = alarm(records, 0.1), alarm(records)
    records.do(
        f"""create function public.slow() returns trigger language plpgsql as
            $$ begin if new.patient_id = '{first}' then perform pg_sleep(3); end if; return new; end $$;
            create trigger slow before update on public.caregiver_alerts for each row execute function public.slow()"""
    )
    records.do("set statement_timeout = '500ms'")
    records.do("select care.run_job('advance_alerts', %s)", LATER)
    records.do("select care.run_job('advance_alerts', %s)", LATER)
    states = records.rows("select patient_id, state from public.caregiver_alerts")
    assert {row["state"] for row in states if row["patient_id"] != first} == {"escalated"}
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "job_failed"]
    assert issue["code"] == "57014"
