"""What a score above a threshold leaves behind: one alert an episode, one check-in a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from fixtures.records import NOON, Records, at_cosine


@pytest.fixture
def patient_id(records: Records) -> UUID:
    patient_id = records.patient()
    records.judge(patient_id)
    return patient_id


def alerts(records: Records) -> list[dict[str, object]]:
    return records.rows("select * from public.caregiver_alerts order by opened_at")


@pytest.mark.parametrize(
    ("similarity", "alert_type", "level"),
    [(0.9, None, None), (0.7, "warning", "warning"), (0.5, "emergency", "emergency"), (0.1, "emergency", "critical")],
)
def test_a_severity_raises_its_alert(
    records: Records, patient_id: UUID, similarity: float, alert_type: str | None, level: str | None
) -> None:
    result = records.judge(patient_id, at_cosine(similarity))
    assert result["alert_type"] == alert_type
    found = alerts(records)
    assert [(row["level"], row["state"], row["judgement_id"]) for row in found] == (
        [(level, "open", result["log_id"])] if level else []
    )


def test_an_episode_is_one_alert_that_a_worse_score_raises_and_a_repeat_counts_up(
    records: Records, patient_id: UUID
) -> None:
    results = [records.judge(patient_id, at_cosine(similarity)) for similarity in (0.7, 0.1, 0.65, 0.95)]
    [alert] = alerts(records)
    assert (alert["level"], alert["repeat_count"], alert["judgement_id"]) == ("critical", 2, results[1]["log_id"])
    assert alert["anomaly_score"] == pytest.approx(0.9, abs=1e-6)


def test_after_an_alert_is_resolved_the_next_one_is_another_episode(records: Records, patient_id: UUID) -> None:
    records.judge(patient_id, at_cosine(0.5))
    records.do("update public.caregiver_alerts set state = 'resolved', resolved_at = now(), outcome = 'ill'")
    records.judge(patient_id, at_cosine(0.5))
    assert [row["state"] for row in alerts(records)] == ["resolved", "open"]


def test_a_second_unresolved_alert_is_refused(records: Records, patient_id: UUID) -> None:
    records.judge(patient_id, at_cosine(0.5))
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        records.do(
            """insert into public.caregiver_alerts (patient_id, level, cause, anomaly_score)
               values (%s, 'warning', 'voice_changed', 0.3)""",
            patient_id,
        )
    assert raised.value.diag.constraint_name == "a_patient_has_one_unresolved_alert"


def checkins(records: Records) -> list[tuple[str, float, str]]:
    rows = records.rows("select date, anomaly_score, severity from public.daily_checkins order by date")
    return [(str(row["date"]), round(row["anomaly_score"], 3), row["severity"]) for row in rows]


def test_a_call_above_the_policy_leaves_its_score_with_the_day(records: Records, patient_id: UUID) -> None:
    records.judge(patient_id, at_cosine(0.61))
    assert checkins(records) == []
    records.judge(patient_id, at_cosine(0.59))
    assert checkins(records) == [("2026-03-02", 0.41, "high")]


def test_the_day_keeps_its_highest_score(records: Records, patient_id: UUID) -> None:
    for similarity in (0.5, 0.2, 0.4):
        records.judge(patient_id, at_cosine(similarity))
    assert checkins(records) == [("2026-03-02", 0.8, "critical")]


def test_a_checkin_that_the_dashboard_made_gets_the_score(records: Records, patient_id: UUID) -> None:
    records.do("insert into public.daily_checkins (patient_id, date) values (%s, '2026-03-02')", patient_id)
    records.judge(patient_id, at_cosine(0.5))
    assert checkins(records) == [("2026-03-02", 0.5, "high")]


@pytest.mark.parametrize(
    ("timezone", "moment", "day"),
    [
        ("America/New_York", datetime(2026, 3, 3, 4, 59, tzinfo=UTC), "2026-03-02"),
        ("America/New_York", datetime(2026, 3, 3, 5, 0, tzinfo=UTC), "2026-03-03"),
        # Clocks go forward on 8 March 2026: midnight is at five, then at four.
        ("America/New_York", datetime(2026, 3, 9, 3, 59, tzinfo=UTC), "2026-03-08"),
        ("America/New_York", datetime(2026, 3, 9, 4, 0, tzinfo=UTC), "2026-03-09"),
        # And back on 25 October in Berlin: two hours are 02:30, both of the same day.
        ("Europe/Berlin", datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-25"),
        ("Europe/Berlin", datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "2026-10-25"),
        ("Europe/Berlin", datetime(2026, 10, 25, 23, 0, tzinfo=UTC), "2026-10-26"),
        ("Asia/Kolkata", datetime(2026, 3, 2, 18, 29, tzinfo=UTC), "2026-03-02"),
        ("Asia/Kolkata", datetime(2026, 3, 2, 18, 30, tzinfo=UTC), "2026-03-03"),
    ],
)
def test_the_day_is_the_patients_own(records: Records, timezone: str, moment: datetime, day: str) -> None:
    patient_id = records.patient(timezone)
    records.judge(patient_id, at=NOON - timedelta(days=30))
    records.judge(patient_id, at_cosine(0.0), moment)
    assert [row[0] for row in checkins(records)] == [day]


def test_two_calls_around_local_midnight_are_two_days(records: Records) -> None:
    patient_id = records.patient("America/New_York")
    records.judge(patient_id)
    for minutes in (-1, 1):
        records.judge(patient_id, at_cosine(0.3), datetime(2026, 3, 3, 5, 0, tzinfo=UTC) + timedelta(minutes=minutes))
    assert [row[0] for row in checkins(records)] == ["2026-03-02", "2026-03-03"]


def test_a_time_zone_that_is_none_is_refused(records: Records) -> None:
    for timezone in ("Mars/Olympus", "EST", "+02:00", "CEST", "", "PST/8", "A1/2", "<x/y>5"):
        with pytest.raises(psycopg.errors.CheckViolation) as raised:
            records.patient(timezone)
        assert raised.value.diag.constraint_name == "a_patients_timezone_is_a_zone"
