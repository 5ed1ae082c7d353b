"""What a caregiver sees: the overview, the timeline, the alerts, the latest scores, and what live updates carry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from fixtures.databases import Database
from fixtures.records import ENCODER, USUAL, Records, Row, at_cosine
from retrocare.database.migrations import migrate

NOW = datetime.now(UTC)
WARNING, EMERGENCY = at_cosine(0.65), at_cosine(0.4)
VIEWS = ["caregiver_patients", "voice_timeline", "alert_history", "recent_anomaly_logs"]


def ago(days: int) -> datetime:
    """Give a time of so many days ago, late in the morning, when nothing is taken off a score."""
    return (NOW - timedelta(days=days)).replace(hour=11, minute=0, second=0, microsecond=0)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    """Make a patient whose baseline is complete."""
    found = records.patient()
    records.enrol(found, USUAL, USUAL, USUAL)
    return found


@pytest.fixture
def caregiver(records: Records, patient_id: UUID) -> UUID:
    return records.caregiver(patient_id, patient_known_as="Mum", name="Rui")


def overview(records: Records, sub: UUID) -> Row:
    [row] = records.seen("caregiver_patients", sub)
    return row


def unanswered(records: Records, patient_id: UUID, at: datetime, reason: str = "voicemail") -> None:
    records.do(
        """insert into public.call_logs (patient_id, "timestamp", check_state, check_reason)
           values (%s, %s, 'skipped', %s)""",
        patient_id,
        at,
        reason,
    )


def unusable(records: Records, patient_id: UUID, at: datetime) -> None:
    claim = records.open(records.call_log(patient_id, at))
    measured = '{"snr_db": 5, "clipped_share": 0.5}'
    records.call("abstain_check", claim["check_id"], claim["lease_token"], "too_noisy", measured)


def test_the_overview_has_a_row_for_each_patient_of_the_reader(
    records: Records, patient_id: UUID, caregiver: UUID
) -> None:
    other = records.patient("Europe/Lisbon")
    records.do(
        "insert into public.patient_caregivers (patient_id, user_id, role) values (%s, %s, 'viewer')", other, caregiver
    )
    records.caregiver(records.patient())
    records.caregiver(patient_id, "family")
    rows = records.seen("caregiver_patients", caregiver)
    seen = {row["patient_id"]: row for row in rows}
    assert (len(rows), set(seen)) == (2, {patient_id, other})
    assert (seen[patient_id]["known_as"], seen[patient_id]["role"]) == ("Mum", "primary")
    assert (seen[other]["known_as"], seen[other]["name"], seen[other]["role"]) == ("Ana", "Ana", "viewer")
    assert seen[other]["timezone"] == "Europe/Lisbon"


def test_means_and_trends_are_of_their_days(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.set_policy(critical_above=0.99, high_above=0.95, medium_above=0.9, baseline_target_samples=3)
    for days, score in ((1, 0.2), (3, 0.4), (9, 0.1), (20, 0.6), (40, 0.3), (50, 0.1), (70, 0.8)):
        records.judge(patient_id, at_cosine(1 - score), ago(days))
    row = overview(records, caregiver)
    assert row["mean_score_7_days"] == pytest.approx(0.3)
    assert row["mean_score_30_days"] == pytest.approx(0.325)
    assert (row["score_count_7_days"], row["score_count_30_days"]) == (2, 4)
    assert row["trend_7_days"] == pytest.approx(0.3 - 0.1)
    assert row["trend_30_days"] == pytest.approx(0.325 - 0.2)
    assert row["last_score"] == pytest.approx(0.2)
    assert row["last_scored_at"] == row["last_call_at"] == ago(1)
    assert row["severity"] == "low"
    assert (row["baseline_samples"], row["baseline_target_samples"], row["baseline_is_provisional"]) == (3, 3, False)


def test_the_scores_of_another_encoder_enter_no_mean(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, USUAL, ago(1))
    records.register("other-v1", 3)
    records.do("update public.judgements set model = 'other-v1'")
    row = overview(records, caregiver)
    assert (row["mean_score_7_days"], row["score_count_7_days"]) == (None, 0)
    assert row["last_score"] == pytest.approx(0)


def test_without_any_call_there_is_nothing_to_say(records: Records) -> None:
    row = overview(records, records.caregiver(records.patient()))
    assert row["state"] == "collecting_baseline"
    for name in ("last_call_at", "last_score", "severity", "mean_score_7_days", "trend_7_days", "alert_id"):
        assert row[name] is None
    assert (row["baseline_samples"], row["baseline_is_provisional"]) == (0, True)


def test_a_patient_whose_last_call_was_usual_is_as_usual(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, USUAL, ago(1))
    assert overview(records, caregiver)["state"] == "as_usual"


def test_a_patient_with_too_few_samples_is_collecting_a_baseline(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id, USUAL, ago(1))
    row = overview(records, records.caregiver(patient_id))
    assert (row["state"], row["baseline_samples"]) == ("collecting_baseline", 1)


def test_a_changed_voice_comes_before_everything_else(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id, USUAL, ago(61))
    records.judge(patient_id, WARNING, ago(60))
    row = overview(records, records.caregiver(patient_id))
    assert (row["state"], row["alert_level"], row["alert_state"]) == ("changed", "warning", "open")
    assert row["alert_opened_at"] is not None


def test_a_usual_call_does_not_end_what_an_alert_is_about(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, WARNING, ago(2))
    records.judge(patient_id, USUAL, ago(1))
    assert overview(records, caregiver)["state"] == "changed"


def test_what_was_resolved_is_as_usual_until_the_next_sign(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, WARNING, ago(3))
    alert_id = overview(records, caregiver)["alert_id"]
    records.rpc("resolve_alert", sub=caregiver, alert_id=alert_id, outcome="other_person")
    row = overview(records, caregiver)
    assert (row["state"], row["alert_id"], row["severity"]) == ("as_usual", None, "medium")
    records.judge(patient_id, WARNING, ago(2))
    assert overview(records, caregiver)["state"] == "changed"


def test_an_alert_about_silence_is_no_changed_voice(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.do("update public.patients set silent_after_days = 20")
    records.run_due_jobs(NOW)
    row = overview(records, caregiver)
    assert (row["alert_level"], row["state"]) == ("warning", "no_recent_call")


@pytest.mark.parametrize("reason", ["voicemail", "not_answered", "call_failed", "ended_reason_unknown"])
def test_a_call_that_nobody_answers_is_no_recent_call(
    records: Records, patient_id: UUID, caregiver: UUID, reason: str
) -> None:
    records.judge(patient_id, USUAL, ago(9))
    unanswered(records, patient_id, ago(1), reason)
    row = overview(records, caregiver)
    assert (row["state"], row["last_call_at"]) == ("no_recent_call", ago(1))


def test_how_long_a_call_is_recent_is_the_patients_or_a_setting(
    records: Records, patient_id: UUID, caregiver: UUID
) -> None:
    records.judge(patient_id, USUAL, ago(9))
    assert overview(records, caregiver)["state"] == "no_recent_call"
    records.do("update care.organisation_settings set recent_call_days = 11")
    assert overview(records, caregiver)["state"] == "as_usual"
    records.do("update public.patients set silent_after_days = 3")
    assert overview(records, caregiver)["state"] == "no_recent_call"


def test_a_call_that_could_not_be_judged_shows_until_one_can(
    records: Records, patient_id: UUID, caregiver: UUID
) -> None:
    records.judge(patient_id, USUAL, ago(4))
    unusable(records, patient_id, ago(3))
    unanswered(records, patient_id, ago(2))
    assert overview(records, caregiver)["state"] == "not_assessable"
    records.judge(patient_id, USUAL, ago(1))
    assert overview(records, caregiver)["state"] == "as_usual"


def test_the_timeline_has_every_call_with_what_became_of_it(
    records: Records, caregiver: UUID, patient_id: UUID
) -> None:
    records.judge(patient_id, WARNING, ago(3), snr_db=31)
    unusable(records, patient_id, ago(2))
    unanswered(records, patient_id, ago(1))
    rows = {row["called_at"]: row for row in records.seen("voice_timeline", caregiver)}
    assert len(rows) == 6
    scored, noisy, missed = rows[ago(3)], rows[ago(2)], rows[ago(1)]
    assert (scored["outcome"], scored["reason"], scored["severity"]) == ("scored", None, "medium")
    assert (scored["score"], scored["similarity"], scored["snr_db"]) == (
        pytest.approx(0.35),
        pytest.approx(0.65),
        31,
    )
    assert (noisy["outcome"], noisy["reason"], noisy["score"]) == ("not_assessable", "too_noisy", None)
    assert (noisy["snr_db"], noisy["quality"]) == (5, {"snr_db": 5, "clipped_share": 0.5})
    assert (noisy["usual_from"], noisy["usual_until"], noisy["log_id"]) == (None, None, None)
    assert (missed["outcome"], missed["reason"], missed["snr_db"]) == ("skipped", "voicemail", None)


def test_the_timeline_shows_gaps_and_the_patients_clock(records: Records) -> None:
    patient_id = records.patient("Asia/Kolkata")
    first = datetime(2026, 3, 2, 20, tzinfo=UTC)
    for at in (first, first + timedelta(hours=36)):
        records.judge(patient_id, USUAL, at)
    earlier, later = sorted(
        records.seen("voice_timeline", records.caregiver(patient_id)), key=lambda row: row["called_at"]
    )
    assert (earlier["days_since_previous"], later["days_since_previous"]) == (None, 1.5)
    assert earlier["local_time"] == datetime(2026, 3, 3, 1, 30)


def test_the_usual_band_is_of_the_baseline_that_judged(records: Records) -> None:
    patient_id = records.patient()
    records.set_policy(baseline_target_samples=3)
    records.enrol(patient_id, USUAL, at_cosine(0.98), at_cosine(0.95))
    records.judge(patient_id, USUAL, ago(2))
    caregiver, baseline = records.caregiver(patient_id), records.baseline(patient_id)
    assert baseline
    [row] = [row for row in records.seen("voice_timeline", caregiver) if row["outcome"] == "scored"]
    width = 2 * baseline["spread_deviation"]
    assert width > 0
    assert row["usual_from"] == pytest.approx(max(0, baseline["spread_mean"] - width))
    assert row["usual_until"] == pytest.approx(baseline["spread_mean"] + width)
    assert row["is_provisional"] is False


def test_the_usual_band_of_a_provisional_baseline_is_the_policys(records: Records) -> None:
    patient_id = records.patient()
    for days, similarity in ((4, 1.0), (3, 0.8), (2, 0.9)):  # against one sample, and against two
        records.judge(patient_id, at_cosine(similarity), ago(days))
    records.set_policy(medium_above=0.31)
    rows = records.seen("voice_timeline", records.caregiver(patient_id))
    bands = [(row["usual_from"], row["usual_until"], row["is_provisional"]) for row in rows if row["log_id"]]
    assert bands == [(0, 0.25, True)] * 2


def test_a_call_that_two_encoders_judged_is_one_row(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, USUAL, ago(1))
    records.register("other-v1", 3)
    records.do(
        """with judged as (
               insert into public.judgements (
                   signal, model, patient_id, call_log_id, occurred_at, score, severity, rule, policy_id
               )
               select signal, 'other-v1', patient_id, call_log_id, occurred_at, 0.2, 'low', rule, policy_id
               from public.judgements
               returning *
           )
           insert into public.voice_anomaly_logs (
               id, patient_id, call_log_id, "timestamp", anomaly_score, raw_similarity, normalized_score, adjusted_from,
               severity, verdict, noise_adjusted, encoder, baseline_version, is_provisional, added_to_baseline,
               created_at
           )
           select judged.id, log.patient_id, log.call_log_id, log."timestamp", 0.2, 0.8, 0.2, 0.2, 'low',
               'as_usual', false, judged.model, 1, false, false, log.created_at + interval '1 s'
           from public.voice_anomaly_logs as log join judged on judged.call_log_id = log.call_log_id
           where log.encoder = %s""",
        ENCODER,
    )
    [row] = [row for row in records.seen("voice_timeline", caregiver) if row["called_at"] == ago(1)]
    assert row["score"] == 0.2


def test_an_alert_says_who_answered_it_by_name(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, WARNING, ago(2))
    viewer = records.caregiver(patient_id, "viewer")
    [row] = records.seen("alert_history", viewer)
    assert (row["known_as"], row["opening_cause"], row["last_change"]) == ("Ana", "voice_changed", "opened")
    assert row["opening_judgement_id"] is not None
    records.rpc("acknowledge_alert", sub=caregiver, alert_id=row["alert_id"])
    records.judge(patient_id, WARNING, ago(1))
    [row] = records.seen("alert_history", viewer)
    assert (row["acknowledged_by"], row["repeat_count"], row["change_count"]) == ("Rui", 1, 3)
    records.rpc("resolve_alert", sub=caregiver, alert_id=row["alert_id"], outcome="ill", notes="flu")
    [row] = records.seen("alert_history", caregiver)
    assert (row["known_as"], row["resolved_by"], row["outcome"], row["notes"]) == ("Mum", "Rui", "ill", "flu")
    assert (row["last_change"], row["last_changed_by"], row["change_count"]) == ("resolved", "Rui", 4)


def test_a_caregiver_who_is_gone_has_no_name(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    records.judge(patient_id, WARNING, ago(2))
    [alert] = records.seen("alert_history", caregiver)
    records.rpc("acknowledge_alert", sub=caregiver, alert_id=alert["alert_id"])
    viewer = records.caregiver(patient_id, "viewer", name="Eva")
    records.do("delete from public.patient_caregivers where user_id = %s", caregiver)
    [row] = records.seen("alert_history", viewer)
    assert (row["state"], row["acknowledged_by"]) == ("acknowledged", None)


def test_the_latest_scores_are_of_thirty_days(records: Records, patient_id: UUID, caregiver: UUID) -> None:
    for days in (1, 29, 32):
        records.judge(patient_id, USUAL, ago(days))
    rows = records.seen("recent_anomaly_logs", caregiver)
    assert {row["timestamp"] for row in rows} == {ago(1), ago(29)}
    assert {row["known_as"] for row in rows} == {"Mum"}


@pytest.mark.parametrize("view", VIEWS)
def test_a_stranger_sees_no_row(records: Records, patient_id: UUID, caregiver: UUID, view: str) -> None:
    records.judge(patient_id, WARNING, ago(1))
    other = records.patient()
    stranger = records.caregiver(other)
    assert records.seen(view, caregiver)
    assert [row for row in records.seen(view, stranger) if row["patient_id"] != other] == []


@pytest.mark.parametrize("view", VIEWS)
def test_anon_may_not_even_ask(records: Records, view: str) -> None:
    with records.database.as_role("anon") as api, pytest.raises(psycopg.errors.InsufficientPrivilege):
        api.execute(f"select * from {view}".encode())


def test_live_updates_carry_what_is_behind_the_views_and_no_address_of_a_recording(records: Records) -> None:
    published = {
        row["tablename"]: row["attnames"]
        for row in records.rows("select * from pg_publication_tables where pubname = 'supabase_realtime'")
    }
    assert set(published) == {
        "patients",
        "call_logs",
        "judgements",
        "voice_anomaly_logs",
        "caregiver_alerts",
        "alert_changes",
        "health_flags",
        "daily_checkins",
    }
    assert set(published["call_logs"]) == {
        row["attname"]
        for row in records.rows(
            """select attname from pg_attribute
               where attrelid = 'public.call_logs'::regclass and attnum > 0
                   and attgenerated = '' -- before 18 no publication may name what is generated
                   and has_column_privilege('authenticated', attrelid, attnum, 'select')"""
        )
    }
    assert not {"recording_ref", "recording_source_url"} & set(published["call_logs"])


def test_asking_for_live_updates_again_adds_nothing(records: Records) -> None:
    assert records.one("select care.publish_live_updates()") == 0


def test_where_there_are_no_live_updates_nothing_is_missed(empty_database: Database) -> None:
    empty_database.owner.execute("drop publication supabase_realtime")
    migrate(empty_database.owner_url)
    assert empty_database.owner.execute("select care.publish_live_updates()").fetchone() == (0,)
    empty_database.owner.execute("create publication supabase_realtime")
    assert empty_database.owner.execute("select care.publish_live_updates()").fetchone() == (8,)
