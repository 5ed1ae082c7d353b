"""What caregivers do about an alert, and what happens when they do nothing; each change with who and when."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import NOON, Records, at_cosine

WARNING, EMERGENCY, CRITICAL = 0.7, 0.5, 0.1
EVENING = NOON + timedelta(hours=6)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    patient_id = records.patient()
    records.judge(patient_id, at=NOON - timedelta(days=1))
    return patient_id


@pytest.fixture
def primary(records: Records, patient_id: UUID) -> UUID:
    return records.caregiver(patient_id, "primary", name="Maria")


def raise_alert(records: Records, patient_id: UUID, similarity: float, at: datetime = NOON) -> dict[str, Any]:
    """Judge a call of the patient's that is far from usual; return the alert."""
    records.judge_at(patient_id, at, at_cosine(similarity))
    return alert(records)


def alert(records: Records) -> dict[str, Any]:
    return records.row("select * from public.caregiver_alerts order by opened_at desc limit 1")


def caregiver_id(records: Records, account: UUID) -> UUID:
    found: UUID = records.one("select id from public.patient_caregivers where user_id = %s", account)
    return found


def history(records: Records) -> list[tuple[str, UUID | None]]:
    rows = records.rows("select change, actor_id from public.alert_changes order by changed_at, id")
    return [(row["change"], row["actor_id"]) for row in rows]


def test_acknowledging_says_who_and_when_and_stops_the_reminders(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    [answered] = records.rpc("acknowledge_alert", sub=primary, alert_id=opened["id"])
    assert (answered["state"], answered["acknowledged_by"]) == ("acknowledged", caregiver_id(records, primary))
    assert answered["acknowledged_at"] is not None
    assert answered["next_change_at"] == answered["acknowledged_at"] + timedelta(hours=24)
    records.run_due_jobs(answered["next_change_at"] - timedelta(seconds=1))
    assert alert(records)["state"] == "acknowledged"
    assert history(records) == [("opened", None), ("acknowledged", primary)]


@pytest.mark.parametrize(("similarity", "hours"), [(WARNING, 168), (EMERGENCY, 24), (CRITICAL, 4)])
def test_an_acknowledgement_ends_and_the_alert_is_open_again_and_told(
    records: Records, patient_id: UUID, primary: UUID, similarity: float, hours: int
) -> None:
    opened = raise_alert(records, patient_id, similarity)
    [answered] = records.rpc("acknowledge_alert", sub=primary, alert_id=opened["id"])
    ends = answered["acknowledged_at"] + timedelta(hours=hours)
    records.run_due_jobs(ends - timedelta(seconds=1))
    assert alert(records)["state"] == "acknowledged"
    records.run_due_jobs(ends)
    again = alert(records)
    assert (again["state"], again["acknowledged_at"], again["acknowledged_by"]) == ("open", None, None)
    assert history(records)[-1] == ("reopened", None)
    [told] = records.claim_deliveries(ends + timedelta(days=1))
    assert told["message"].startswith("Somebody saw to this some time ago, but nobody has said how it ended. ")
    records.run_due_jobs(again["next_change_at"])
    assert alert(records)["state"] == "escalated"


def test_a_later_sign_tells_again_even_where_no_job_has_run(records: Records, patient_id: UUID, primary: UUID) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    records.rpc("acknowledge_alert", sub=primary, alert_id=opened["id"])
    later = datetime.now(NOON.tzinfo)
    assert raise_alert(records, patient_id, EMERGENCY, later)["state"] == "acknowledged"
    records.do("update public.caregiver_alerts set next_change_at = next_change_at - interval '40 days'")
    raised = raise_alert(records, patient_id, EMERGENCY, later + timedelta(seconds=1))
    assert (raised["id"], raised["state"]) == (opened["id"], "open")
    assert history(records)[-1] == ("raised", None)


def test_a_silence_raises_an_acknowledged_emergency_on_the_emergencys_clock(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    records.rpc("acknowledge_alert", sub=primary, alert_id=opened["id"])
    records.do("update public.patients set silent_after_days = 3")
    night = NOON + timedelta(days=300, hours=11)  # in the quiet hours, for which a warning would wait
    records.do("update public.caregiver_alerts set next_change_at = %s", night + timedelta(days=1))
    records.run_due_jobs(night)
    raised = alert(records)
    assert (raised["state"], raised["level"], raised["cause"]) == ("open", "emergency", "nothing_heard")
    assert raised["next_change_at"] == night + timedelta(minutes=15)


def test_acknowledging_twice_the_first_counts(records: Records, patient_id: UUID, primary: UUID) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    second = records.caregiver(patient_id, "family")
    for caregiver in (primary, primary, second):
        [answered] = records.rpc("acknowledge_alert", sub=caregiver, alert_id=opened["id"])
        assert answered["acknowledged_by"] == caregiver_id(records, primary)
    assert len(history(records)) == 2


@pytest.mark.parametrize("outcome", ["ill", "not_ill", "other_person", "wrong_recording", "other"])
def test_resolving_keeps_what_was_found(records: Records, patient_id: UUID, primary: UUID, outcome: str) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    [closed] = records.rpc(
        "resolve_alert", sub=primary, alert_id=opened["id"], outcome=outcome, notes="She has a cold."
    )
    assert (closed["state"], closed["outcome"], closed["notes"]) == ("resolved", outcome, "She has a cold.")
    assert closed["resolved_by"] == caregiver_id(records, primary)
    assert history(records) == [("opened", None), ("resolved", primary)]
    [again] = records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome=outcome)
    assert again == closed
    raise_alert(records, patient_id, CRITICAL, NOON + timedelta(hours=1))
    assert records.one("select count(*) from public.caregiver_alerts") == 2


def test_a_resolved_alert_cannot_be_changed(records: Records, patient_id: UUID, primary: UUID) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="ill")
    until = datetime.now(NOON.tzinfo) + timedelta(hours=1)
    for action, more in (
        ("acknowledge_alert", {}), ("snooze_alert", {"until": until}), ("resolve_alert", {"outcome": "not_ill"}),
    ):  # fmt: skip
        assert records.refusal(action, primary, alert_id=opened["id"], **more) == "PT409"
    assert len(history(records)) == 2


ACTIONS: list[tuple[str, dict[str, Any]]] = [
    ("acknowledge_alert", {}),
    ("snooze_alert", {"until": datetime.now(NOON.tzinfo) + timedelta(hours=3)}),
    ("resolve_alert", {"outcome": "ill"}),
]


@pytest.mark.parametrize(("action", "more"), ACTIONS)
def test_only_the_patients_caregivers_act(
    records: Records, patient_id: UUID, action: str, more: dict[str, Any]
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    elsewhere = records.caregiver(records.patient(), "primary")
    for stranger in (elsewhere, records.account(), uuid4()):
        assert records.refusal(action, stranger, alert_id=opened["id"], **more) == "PT404"
    assert records.refusal(action, records.caregiver(patient_id, "viewer"), alert_id=opened["id"], **more) == "PT403"
    assert records.refusal(action, elsewhere, alert_id=uuid4(), **more) == "PT404"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        records.rpc(action, api_role="anon", alert_id=opened["id"], **more)
    assert history(records) == [("opened", None)]
    for role in ("primary", "family", "clinician"):
        records.do(
            """update public.caregiver_alerts
               set state = 'open', snoozed_until = null, resolved_at = null, outcome = null, next_change_at = now()"""
        )
        records.rpc(action, sub=records.caregiver(patient_id, role), alert_id=opened["id"], **more)
    assert alert(records)["state"] != "open"


def actors(records: Records) -> list[tuple[str, str]]:
    rows = records.rows("select change, actor from public.alert_changes order by changed_at, id")
    return [(row["change"], row["actor"]) for row in rows]


@pytest.mark.parametrize("who", ["service_role", "the service"])
def test_the_care_team_answers_an_alert_and_the_history_tells_it_from_a_rule(
    records: Records, patient_id: UUID, primary: UUID, who: str
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    [message] = records.claim_deliveries(NOON)
    held = {name: message[name] for name in ("delivery_id", "lease_token")}
    records.rpc("finish_delivery", **held, provider_message_id="1", at=NOON)
    for action, more in (("acknowledge_alert", []), ("resolve_alert", ["not_ill", "A cold line."])):
        if who == "service_role":
            named: dict[str, Any] = dict(zip(["outcome", "notes"], more, strict=False))
            [answered] = records.rpc(action, alert_id=opened["id"], **named)
        else:
            answered = records.call(action, opened["id"], *more)
        assert answered["acknowledged_by"] is None
        [told] = records.claim_deliveries(datetime.now(NOON.tzinfo))
        assert told["message"].startswith("The care team ")
    assert (answered["state"], answered["outcome"], answered["notes"]) == ("resolved", "not_ill", "A cold line.")
    assert actors(records) == [("opened", "rule"), ("acknowledged", "operator"), ("resolved", "operator")]
    login = "service_role" if who == "service_role" else "retrocare_service"
    operators = records.rows("select distinct operator from public.alert_changes where actor = 'operator'")
    assert operators == [{"operator": login}]


def test_an_operator_may_be_called_otherwise_than_the_login(records: Records, patient_id: UUID, primary: UUID) -> None:
    alert_id = raise_alert(records, patient_id, EMERGENCY)["id"]
    named = "operator => 'night shift'"
    records.database.service.execute(f"select care.acknowledge_alert(%s, {named})".encode(), [alert_id])
    records.database.service.execute(f"select care.resolve_alert(%s, 'other', {named})".encode(), [alert_id])
    told = "select change, operator from public.alert_changes order by changed_at"
    assert [row["operator"] for row in records.rows(told)] == [None, "night shift", "night shift"]
    with pytest.raises(psycopg.errors.UndefinedFunction):  # a caregiver is nobody else
        records.rpc("acknowledge_alert", sub=primary, alert_id=alert_id, operator="night shift")


def test_the_history_keeps_which_caregiver_it_was_whatever_becomes_of_the_account(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    alert_id = raise_alert(records, patient_id, EMERGENCY)["id"]
    records.caregiver(patient_id, "viewer")
    caregiver = caregiver_id(records, primary)
    [answered] = records.rpc("acknowledge_alert", sub=primary, alert_id=alert_id)
    records.do("delete from auth.users where id = %s", primary)
    change = "select actor, actor_id, caregiver_id, operator from public.alert_changes where change = 'acknowledged'"
    as_caregiver = {"actor": "caregiver", "actor_id": None, "operator": None}
    assert records.row(change) == as_caregiver | {"caregiver_id": caregiver}
    assert alert(records)["acknowledged_by"] == answered["acknowledged_by"] == caregiver
    [told] = records.seen("alert_history")
    name = records.one("select name from public.patient_caregivers where id = %s", caregiver)
    assert (told["acknowledged_by"], told["last_changed_by"]) == (name, name) != (None, None)
    records.do("delete from public.patient_caregivers where id = %s", caregiver)
    assert records.row(change) == as_caregiver | {"caregiver_id": None}
    assert alert(records)["acknowledged_by"] is None


@pytest.mark.parametrize(("actor", "operator"), [("rule", "Ana"), ("caregiver", "Ana"), ("operator", None)])
def test_an_operator_has_a_name_and_nobody_else_has(
    records: Records, patient_id: UUID, primary: UUID, actor: str, operator: str | None
) -> None:
    raise_alert(records, patient_id, EMERGENCY)
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do(
            """insert into public.alert_changes (
                   alert_id, patient_id, change, level, cause, changed_at, actor, operator
               )
               select alert_id, patient_id, change, level, cause, changed_at, %s, %s from public.alert_changes""",
            actor, operator,
        )  # fmt: skip
    assert raised.value.diag.constraint_name == "an_operator_has_a_name"


def test_a_caregivers_answer_is_a_caregivers_and_a_wake_up_a_rules(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    opened = raise_alert(records, patient_id, WARNING)
    until = datetime.now(NOON.tzinfo) + timedelta(hours=5)
    records.rpc("snooze_alert", sub=primary, alert_id=opened["id"], until=until)
    records.run_due_jobs(until)
    records.rpc("acknowledge_alert", sub=primary, alert_id=opened["id"])
    assert sorted(actors(records)) == [
        ("acknowledged", "caregiver"), ("opened", "rule"), ("snoozed", "caregiver"), ("woken", "rule"),
    ]  # fmt: skip


def test_a_token_without_an_account_is_no_operator(records: Records, patient_id: UUID) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("acknowledge_alert", api_role="authenticated", alert_id=opened["id"])
    assert raised.value.sqlstate == "PT404"


@pytest.mark.parametrize("who", ["caregiver", "operator"])
def test_an_illness_that_was_found_is_a_health_flag_that_ends(
    records: Records, patient_id: UUID, primary: UUID, who: str
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    sub = primary if who == "caregiver" else None
    for _ in range(2):
        [closed] = records.rpc("resolve_alert", sub=sub, alert_id=opened["id"], outcome="ill")
    flag = records.row("select * from public.health_flags")
    assert (flag["patient_id"], flag["flag"], flag["started_at"]) == (patient_id, "ill (alert)", opened["opened_at"])
    assert flag["resolved_at"] == closed["resolved_at"] + timedelta(days=14)


def test_an_illness_that_is_flagged_already_is_flagged_once_and_another_outcome_not_at_all(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="other_person")
    assert records.one("select count(*) from public.health_flags") == 0
    records.call("flag_patient", patient_id, "flu", NOON + timedelta(hours=1))
    opened = raise_alert(records, patient_id, EMERGENCY, NOON + timedelta(hours=2))
    records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="ill")
    assert records.one("select string_agg(flag, ',') from public.health_flags") == "flu"


def test_notes_that_are_too_long_are_refused_with_their_length(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="other", notes="x" * 10_001)
    assert (raised.value.sqlstate, "10001 characters" in str(raised.value)) == ("PT400", True)
    for table in ("caregiver_alerts", "voice_anomaly_logs"):
        with pytest.raises(psycopg.errors.CheckViolation) as broken:
            records.do(f"update public.{table} set notes = repeat('x', 10001)")
        assert "at_most_10000_characters" in (broken.value.diag.constraint_name or "")
        records.do(f"update public.{table} set notes = repeat('x', 10000)")


@pytest.mark.parametrize(("action", "more"), ACTIONS)
def test_whoever_answers_waits_for_the_patient_before_taking_the_alert(
    records: Records, patient_id: UUID, primary: UUID, action: str, more: dict[str, Any]
) -> None:
    """An erasure holds the patient, then takes the alerts: the other way round, each would wait for the other."""
    opened = raise_alert(records, patient_id, EMERGENCY)
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with ThreadPoolExecutor() as pool:
        holder = records.database.connect(records.database.owner_url)
        with holder.transaction():
            holder.execute("select from public.patients where id = %s for update", [patient_id])
            answer = pool.submit(records.rpc, action, sub=primary, alert_id=opened["id"], **more)
            while records.database.admin.execute(waiting).fetchone() != (1,):
                time.sleep(0.01)
            holder.execute("select from public.caregiver_alerts for update nowait")
            holder.execute("delete from public.patients where id = %s", [patient_id])
        with pytest.raises(psycopg.Error) as raised:
            answer.result()
    assert raised.value.sqlstate == "RV002"


def test_a_snoozed_alert_is_open_again_when_its_time_is_over(records: Records, patient_id: UUID, primary: UUID) -> None:
    opened = raise_alert(records, patient_id, WARNING)
    until = datetime.now(NOON.tzinfo) + timedelta(hours=5)
    [snoozed] = records.rpc("snooze_alert", sub=primary, alert_id=opened["id"], until=until)
    assert (snoozed["state"], snoozed["snoozed_until"]) == ("snoozed", until)
    records.run_due_jobs(until - timedelta(seconds=1))
    assert alert(records)["state"] == "snoozed"
    records.run_due_jobs(until)
    assert (alert(records)["state"], alert(records)["snoozed_until"]) == ("open", None)
    assert history(records)[-2:] == [("snoozed", primary), ("woken", None)]
    records.do("update care.organisation_settings set quiet_from = '00:00', quiet_until = '00:00'")
    records.run_due_jobs(alert(records)["next_change_at"])
    assert history(records)[-1] == ("escalated", None)


def test_after_a_snooze_somebody_is_expected_to_answer_as_soon_as_before(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    until = datetime.now(NOON.tzinfo) + timedelta(hours=1)
    records.rpc("snooze_alert", sub=primary, alert_id=opened["id"], until=until)
    records.run_due_jobs(until)
    assert alert(records)["next_change_at"] == until + timedelta(minutes=15)


@pytest.mark.parametrize(("similarity", "hours"), [(WARNING, 72), (EMERGENCY, 4), (CRITICAL, 1)])
def test_the_more_urgent_the_shorter_it_can_be_put_off(
    records: Records, patient_id: UUID, primary: UUID, similarity: float, hours: float
) -> None:
    opened, now = raise_alert(records, patient_id, similarity), datetime.now(NOON.tzinfo)
    wrong = (now - timedelta(seconds=1), now + timedelta(minutes=14), now + timedelta(hours=hours, seconds=30))
    for until in (*wrong, None, "infinity"):
        assert records.refusal("snooze_alert", primary, alert_id=opened["id"], until=until) == "PT400"
    assert history(records) == [("opened", None)]
    records.rpc("snooze_alert", sub=primary, alert_id=opened["id"], until=now + timedelta(hours=hours - 0.01))


@pytest.mark.parametrize(
    ("similarity", "escalates", "reminds", "times"),
    [(WARNING, 240, 480, 2), (EMERGENCY, 15, 30, 6), (CRITICAL, 5, 10, 12)],
)
def test_what_nobody_answers_is_escalated_and_then_reminded_of(
    records: Records, patient_id: UUID, similarity: float, escalates: int, reminds: int, times: int
) -> None:
    records.do("update care.organisation_settings set quiet_from = '00:00', quiet_until = '00:00'")
    raise_alert(records, patient_id, similarity)
    due = NOON + timedelta(minutes=escalates)
    records.run_due_jobs(due - timedelta(seconds=1))
    assert alert(records)["state"] == "open"
    records.run_due_jobs(due)
    assert alert(records)["state"] == "escalated"
    for _ in range(times):
        due += timedelta(minutes=reminds)
        records.run_due_jobs(due - timedelta(seconds=1))
        records.run_due_jobs(due)
        records.run_due_jobs(due)
    assert [change for change, _ in history(records)] == ["opened", "escalated", *["reminded"] * times]
    [issue] = [row for row in records.seen("operator_issues") if row["kind"] == "alert_unanswered"]
    assert (issue["alert_id"], issue["code"]) == (alert(records)["id"], "nobody_answers")
    # And then now and then for ever: no alert that nobody answers falls silent.
    for _ in range(3):
        due += timedelta(hours={WARNING: 168, EMERGENCY: 24, CRITICAL: 4}[similarity])
        records.run_due_jobs(due - timedelta(seconds=1))
        records.run_due_jobs(due)
    assert [change for change, _ in history(records)] == ["opened", "escalated", *["reminded"] * (times + 3)]


def test_nobody_is_expected_to_answer_a_warning_at_night(records: Records, patient_id: UUID) -> None:
    night = NOON.replace(hour=23)
    raise_alert(records, patient_id, WARNING, night)
    morning = NOON.replace(hour=7) + timedelta(days=1)
    records.run_due_jobs(morning + timedelta(minutes=239))
    assert alert(records)["state"] == "open"
    records.run_due_jobs(morning + timedelta(minutes=240))
    assert alert(records)["state"] == "escalated"


def test_a_worse_sign_opens_what_was_acknowledged(records: Records, patient_id: UUID, primary: UUID) -> None:
    opened = raise_alert(records, patient_id, WARNING)
    records.rpc("acknowledge_alert", sub=primary, alert_id=opened["id"])
    raised = raise_alert(records, patient_id, CRITICAL, EVENING)
    assert (raised["id"], raised["level"], raised["state"]) == (opened["id"], "critical", "open")
    assert (raised["acknowledged_at"], raised["acknowledged_by"]) == (None, None)
    assert raised["next_change_at"] == EVENING + timedelta(minutes=5)


@pytest.mark.parametrize("action", ["acknowledge_alert", "snooze_alert", None])
def test_a_sign_that_is_no_worse_only_counts_up(
    records: Records, patient_id: UUID, primary: UUID, action: str | None
) -> None:
    before = raise_alert(records, patient_id, EMERGENCY)
    if action:
        until: dict[str, Any] = (
            {"until": datetime.now(NOON.tzinfo) + timedelta(hours=1)} if action == "snooze_alert" else {}
        )
        [before] = records.rpc(action, sub=primary, alert_id=before["id"], **until)
    after = raise_alert(records, patient_id, WARNING, EVENING)
    assert after == before | {"repeat_count": 1, "last_raised_at": EVENING}


def test_caregivers_read_the_history_of_their_patients_alerts_alone(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    raise_alert(records, patient_id, EMERGENCY)
    assert [row["change"] for row in records.seen("alert_changes", primary)] == ["opened"]
    assert records.seen("alert_changes", records.caregiver(records.patient())) == []


def test_the_history_cannot_be_rewritten(records: Records, patient_id: UUID) -> None:
    raise_alert(records, patient_id, EMERGENCY)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        records.do("update public.alert_changes set changed_at = now()")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), records.database.as_role("service_role") as connection:
        connection.execute("delete from public.alert_changes")


def test_an_illness_that_the_caregivers_know_of_raises_no_further_alert_unless_it_gets_worse_or_is_over(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    now = datetime.now(NOON.tzinfo)
    opened = raise_alert(records, patient_id, EMERGENCY, now)
    records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="ill")
    count = "select count(*) from public.caregiver_alerts"
    for similarity in (EMERGENCY, WARNING):
        raise_alert(records, patient_id, similarity, now + timedelta(hours=1))
    assert records.one(count) == 1
    assert records.one("select count(*) from public.voice_anomaly_logs where alert_type is not null") == 3, (
        "all is logged"
    )
    raise_alert(records, patient_id, CRITICAL, now + timedelta(hours=2))
    assert (records.one(count), alert(records)["level"]) == (2, "critical")
    records.rpc("resolve_alert", sub=primary, alert_id=alert(records)["id"], outcome="ill")
    records.do("update public.health_flags set resolved_at = now()")
    raise_alert(records, patient_id, WARNING, now + timedelta(hours=3))
    assert records.one(count) == 3


def test_what_was_no_illness_is_told_again(records: Records, patient_id: UUID, primary: UUID) -> None:
    now = datetime.now(NOON.tzinfo)
    records.call("flag_patient", patient_id, "flu", now - timedelta(days=1))
    opened = raise_alert(records, patient_id, EMERGENCY, now)
    records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="not_ill")
    raise_alert(records, patient_id, WARNING, now + timedelta(hours=1))
    assert records.one("select count(*) from public.caregiver_alerts") == 2


def test_what_was_known_is_not_known_for_ever_and_nothing_critical_is_withheld(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    """An open flag that nobody ends, or one of another kind much later, hides no changed voice."""
    now = datetime.now(NOON.tzinfo)
    records.call("flag_patient", patient_id, "flu", now - timedelta(days=200))
    opened = raise_alert(records, patient_id, CRITICAL, now - timedelta(days=100))
    records.rpc("resolve_alert", sub=primary, alert_id=opened["id"], outcome="ill")
    records.do("update public.caregiver_alerts set resolved_at = %s", now - timedelta(days=99))
    count = "select count(*) from public.caregiver_alerts where resolved_at is null"
    raise_alert(records, patient_id, EMERGENCY, now - timedelta(days=98))
    assert records.one(count) == 0, "known, the day after"
    raise_alert(records, patient_id, CRITICAL, now - timedelta(days=97))
    assert records.one(count) == 1, "critical is told whatever is known"
    records.do("delete from public.caregiver_alerts where resolved_at is null")
    raise_alert(records, patient_id, WARNING, now)
    assert records.one(count) == 1, "not known any more, though the flag is still open"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e9", "0"])
@pytest.mark.parametrize(
    "column", ["escalate_after_minutes", "remind_after_minutes", "maximum_snooze_hours", "maximum_silent_hours"]
)
def test_no_policy_makes_an_alert_wait_for_ever(records: Records, column: str, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        records.do(f"update care.alert_policies set {column} = '{value}'")


def test_no_alert_is_put_off_beyond_all_time(records: Records, patient_id: UUID, primary: UUID) -> None:
    opened = raise_alert(records, patient_id, EMERGENCY)
    with pytest.raises(psycopg.errors.CheckViolation):
        records.do("select care.acknowledge_alert(%s, 'infinity')", opened["id"])
