"""Who is told of what, when, by which channel and in which words.

A message is sent once, or the operator hears of it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from fixtures.records import NOON, Records, at_cosine

WARNING, EMERGENCY, CRITICAL = 0.7, 0.5, 0.1
NIGHT = NOON.replace(hour=23)
MORNING = NOON.replace(hour=7) + timedelta(days=1)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    patient_id = records.patient()
    records.judge(patient_id)
    return patient_id


def held(delivery: dict[str, Any]) -> dict[str, Any]:
    return {name: delivery[name] for name in ("delivery_id", "lease_token")}


def accept(records: Records, delivery: dict[str, Any], at: datetime = NOON) -> bool:
    accepted = records.rpc("finish_delivery", **held(delivery), provider_message_id="SM1", at=at)
    return bool(accepted[0]["finish_delivery"])


def fail(records: Records, delivery: dict[str, Any], at: datetime, **how: bool) -> str:
    given: dict[str, Any] = {"is_permanent": False, "may_have_been_sent": False} | how
    failed = records.rpc("fail_delivery", **held(delivery), code="refused", message="Not now", at=at, **given)
    return str(failed[0]["fail_delivery"])


def send_all(records: Records, at: datetime) -> list[dict[str, Any]]:
    sent = records.claim_deliveries(at)
    assert all(accept(records, delivery, at) for delivery in sent)
    return sent


def states(records: Records) -> list[str]:
    return [row["state"] for row in records.rows("select state from care.deliveries order by id")]


@pytest.fixture
def family(records: Records, patient_id: UUID) -> dict[str, UUID]:
    return {role: records.caregiver(patient_id, role, phone=f"+491{n}00000", name=role.title())
            for n, role in enumerate(("primary", "family", "clinician", "viewer"))}  # fmt: skip


def told(deliveries: list[dict[str, Any]]) -> list[str]:
    roles = ("primary", "family", "clinician", "viewer")
    return [roles[int(delivery["address"][4])] for delivery in deliveries]


@pytest.mark.parametrize(
    ("similarity", "level", "first", "further"),
    [
        (WARNING, "warning", ["primary"], ["family", "primary"]),
        (EMERGENCY, "emergency", ["family", "primary"], ["clinician", "family", "primary"]),
        (CRITICAL, "critical", ["clinician", "family", "primary"], ["clinician", "family", "primary"]),
    ],
)
def test_the_level_says_who_is_told_at_once_and_who_when_nobody_answers(
    records: Records,
    patient_id: UUID,
    family: dict[str, UUID],
    similarity: float,
    level: str,
    first: list[str],
    further: list[str],
) -> None:
    records.judge_at(patient_id, NOON, at_cosine(similarity))
    sent = send_all(records, NOON)
    assert sorted(told(sent)) == first
    assert {(row["level"], row["change"], row["channel"], row["attempts"]) for row in sent} == {
        (level, "opened", "sms", 1)
    }
    records.run_due_jobs(NOON + timedelta(hours=4))
    sent = send_all(records, NOON + timedelta(hours=4))
    assert sorted(told(sent)) == further
    assert {row["change"] for row in sent} == {"escalated"}


def test_where_nobody_of_the_first_can_be_reached_whoever_can_is_told(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id, "primary", phone=None)
    records.caregiver(patient_id, "clinician", phone="+491200000")
    records.caregiver(patient_id, "viewer", phone="+491300000")
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    assert told(records.claim_deliveries(NOON)) == ["clinician"]
    records.do("update public.patient_caregivers set phone = null where role = 'clinician'")
    records.do("delete from public.caregiver_alerts")
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    assert told(records.claim_deliveries(NOON)) == ["viewer"]


def test_an_alert_that_nobody_can_be_told_of_is_the_operators(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id, "primary", phone=None)
    records.judge_at(patient_id, NOON, at_cosine(CRITICAL))
    assert states(records) == []
    [issue] = records.seen("operator_issues")
    assert (issue["kind"], issue["patient_id"], issue["code"]) == ("alert_untold", patient_id, "nobody_reachable")


def test_a_repeat_is_told_to_nobody(records: Records, patient_id: UUID, family: dict[str, UUID]) -> None:
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    send_all(records, NOON)
    for similarity in (EMERGENCY, WARNING):
        records.judge_at(patient_id, NOON + timedelta(minutes=5), at_cosine(similarity))
    assert records.claim_deliveries(NOON + timedelta(minutes=5)) == []


def test_a_worse_sign_is_told_at_once(records: Records, patient_id: UUID, family: dict[str, UUID]) -> None:
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    send_all(records, NOON)
    records.judge_at(patient_id, NOON + timedelta(minutes=5), at_cosine(CRITICAL))
    sent = send_all(records, NOON + timedelta(minutes=5))
    assert sorted(told(sent)) == ["clinician", "family", "primary"]
    assert {(row["level"], row["change"]) for row in sent} == {("critical", "raised")}


def test_each_channel_of_a_caregiver_is_one_delivery(records: Records, patient_id: UUID) -> None:
    records.do("insert into care.delivery_channels values ('pager', true)")
    records.caregiver(
        patient_id,
        phone="+491",
        webhook_url="https://h.example.org/1",
        other_addresses=Jsonb({"pager": "7", "fax": "8"}),
    )
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    assert sorted((row["channel"], row["address"]) for row in records.claim_deliveries(NOON)) == [
        ("pager", "7"), ("sms", "+491"), ("webhook", "https://h.example.org/1"),
    ]  # fmt: skip


def test_a_channel_that_is_switched_off_reaches_nobody(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id, webhook_url="https://h.example.org/1", name="Maria")
    records.do("update care.delivery_channels set is_enabled = id = 'console'")
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    assert [(row["channel"], row["address"]) for row in records.claim_deliveries(NOON)] == [("console", "Maria")]


@pytest.mark.parametrize("similarity", [EMERGENCY, CRITICAL])
def test_an_emergency_never_waits_for_the_morning(
    records: Records, patient_id: UUID, family: dict[str, UUID], similarity: float
) -> None:
    records.judge_at(patient_id, NIGHT, at_cosine(similarity))
    assert len(records.claim_deliveries(NIGHT)) >= 2


def test_a_warning_waits_for_the_morning(records: Records, patient_id: UUID, family: dict[str, UUID]) -> None:
    records.judge_at(patient_id, NIGHT, at_cosine(WARNING))
    assert records.claim_deliveries(MORNING - timedelta(seconds=1)) == []
    assert told(records.claim_deliveries(MORNING)) == ["primary"]


def test_a_policy_that_lets_an_emergency_wait_is_refused(records: Records) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.do("update care.alert_policies set waits_for_morning = true where level = 'emergency'")
    assert raised.value.diag.constraint_name == "only_a_warning_waits_for_morning"


@pytest.mark.parametrize(
    ("caregiver", "until"),
    [
        ({"timezone": "America/New_York"}, NIGHT),  # 18:00 there
        ({"timezone": "Asia/Tokyo"}, NIGHT),  # 08:00 there
        ({"timezone": "Europe/Berlin"}, NOON.replace(hour=6) + timedelta(days=1)),
        ({"quiet_from": "22:00", "quiet_until": "05:30"}, NOON.replace(hour=5, minute=30) + timedelta(days=1)),
        ({"quiet_from": "23:00", "quiet_until": "23:30"}, NIGHT + timedelta(minutes=30)),
        ({"quiet_from": "22:30", "quiet_until": "23:30"}, NIGHT + timedelta(minutes=30)),
        ({"quiet_from": "23:00", "quiet_until": "07:00"}, MORNING),
        ({"quiet_from": "22:30", "quiet_until": "23:00"}, NIGHT),
        ({"quiet_from": "00:00", "quiet_until": "06:00"}, NIGHT),
        ({"quiet_from": "23:00", "quiet_until": "23:00"}, NIGHT),
        ({"quiet_from": "23:01", "quiet_until": "23:00"}, NIGHT),
        ({"quiet_from": "22:59", "quiet_until": "22:58"}, NIGHT.replace(hour=22, minute=58) + timedelta(days=1)),
    ],
)
def test_quiet_hours_are_the_caregivers_own(
    records: Records, patient_id: UUID, caregiver: dict[str, str], until: datetime
) -> None:
    records.caregiver(patient_id, **caregiver)
    records.judge_at(patient_id, NIGHT, at_cosine(WARNING))
    assert records.one("select run_at from care.deliveries") == until


@pytest.mark.parametrize(
    ("zone", "night", "morning"),
    [  # the clocks go forward on 29 March 2026 in Berlin, and back on 25 October
        ("Europe/Berlin", datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 3, 29, 5, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 10, 24, 21, tzinfo=UTC), datetime(2026, 10, 25, 6, tzinfo=UTC)),
    ],
)
def test_the_morning_comes_when_the_clock_says_so(
    records: Records, patient_id: UUID, zone: str, night: datetime, morning: datetime
) -> None:
    records.caregiver(patient_id, timezone=zone)
    records.judge_at(patient_id, night, at_cosine(WARNING))
    assert records.one("select run_at from care.deliveries") == morning


def test_a_warning_that_was_answered_before_the_morning_is_not_sent(
    records: Records, patient_id: UUID, family: dict[str, UUID]
) -> None:
    records.judge_at(patient_id, NIGHT, at_cosine(WARNING))
    alert_id = records.one("select id from public.caregiver_alerts")
    records.rpc("acknowledge_alert", sub=family["family"], alert_id=alert_id)
    assert records.claim_deliveries(MORNING + timedelta(days=1)) == []
    records.run_due_jobs(MORNING)
    assert states(records) == ["cancelled"]


def test_a_newer_message_takes_the_place_of_one_that_waits(
    records: Records, patient_id: UUID, family: dict[str, UUID]
) -> None:
    records.judge_at(patient_id, NIGHT, at_cosine(WARNING))
    records.judge_at(patient_id, NIGHT + timedelta(minutes=1), at_cosine(EMERGENCY))
    assert sorted(told(send_all(records, NIGHT + timedelta(minutes=1)))) == ["family", "primary"]
    assert records.claim_deliveries(MORNING) == []
    records.rpc("run_job", job="cancel_deliveries", at=MORNING)
    assert sorted(states(records)) == ["accepted", "accepted", "cancelled"]


def test_those_who_were_told_hear_that_somebody_sees_to_it_but_not_who_does_it(
    records: Records, patient_id: UUID, family: dict[str, UUID]
) -> None:
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    send_all(records, NOON)
    alert_id = records.one("select id from public.caregiver_alerts")
    records.rpc("acknowledge_alert", sub=family["primary"], alert_id=alert_id)
    later = datetime.now(UTC) + timedelta(minutes=1)
    [sent] = send_all(records, later)
    assert (told([sent]), sent["change"]) == (["family"], "acknowledged")
    assert sent["message"] == "Primary is looking after Ana now. You need not do anything."
    records.rpc("resolve_alert", sub=family["family"], alert_id=alert_id, outcome="not_ill")
    [sent] = send_all(records, later)
    assert (told([sent]), sent["change"]) == (["primary"], "resolved")


def test_the_log_says_alert_sent_only_after_a_provider_accepted(
    records: Records, patient_id: UUID, family: dict[str, UUID]
) -> None:
    log_id = records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))["log_id"]
    quiet_log_id = records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))["log_id"]

    def is_sent(log: UUID) -> bool:
        return bool(records.one("select alert_sent from public.voice_anomaly_logs where id = %s", log))

    first, second = records.claim_deliveries(NOON)
    assert not is_sent(log_id)
    fail(records, first, NOON)
    assert not is_sent(log_id)
    assert accept(records, second)
    assert (is_sent(log_id), is_sent(quiet_log_id)) == (True, False)


def test_a_refused_message_is_tried_again_after_a_wait_that_doubles_to_its_longest(
    records: Records, patient_id: UUID
) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    at, waits = NOON, []
    for _ in range(8):
        [delivery] = records.claim_deliveries(at)
        assert fail(records, delivery, at) == "queued"
        assert records.claim_deliveries(at) == []
        due = records.one("select run_at from care.deliveries")
        waits.append((due - at).total_seconds())
        at = due
    for wait, expected in zip(waits, (10, 20, 40, 80, 160, 300, 300, 300), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected
    assert "delivery_delayed" in {row["kind"] for row in records.seen("operator_issues")}
    assert accept(records, records.claim_deliveries(at)[0])
    assert records.seen("operator_issues") == []


def test_a_gateway_that_refuses_for_two_hours_loses_no_message(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    at = NOON
    while at < NOON + timedelta(hours=2):
        for delivery in records.claim_deliveries(at):
            assert fail(records, delivery, at) == "queued"
        at += timedelta(minutes=1)
    assert len(send_all(records, at + timedelta(minutes=6))) == 1


def test_after_the_set_attempts_a_message_is_dead_and_the_operators(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.do("update care.settings set delivery_maximum_attempts = 3")
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    at = NOON
    ends = []
    for _ in range(3):
        [delivery] = records.claim_deliveries(at)
        ends.append(fail(records, delivery, at))
        at += timedelta(hours=1)
    assert ends == ["queued", "queued", "dead"]
    assert records.claim_deliveries(at) == []
    kinds = {row["kind"]: row["code"] for row in records.seen("operator_issues")}
    assert kinds == {"delivery_dead": "refused", "alert_untold": "nobody_reachable"}


def test_a_number_that_cannot_be_reached_is_dead_at_once(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    assert fail(records, records.claim_deliveries(NOON)[0], NOON, is_permanent=True) == "dead"


def test_a_message_to_an_address_that_is_gone_is_dead(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    records.do("update public.patient_caregivers set phone = null")
    assert records.claim_deliveries(NOON) == []
    assert records.row("select state, error_code from care.deliveries") == {
        "state": "dead",
        "error_code": "no_address",
    }


def test_a_message_is_sent_by_one_at_a_time(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    [delivery] = records.claim_deliveries(NOON)
    assert records.claim_deliveries(NOON) == []
    assert accept(records, delivery)
    assert accept(records, delivery)  # asked twice, answered twice
    assert records.claim_deliveries(NOON + timedelta(days=1)) == []


def test_where_a_sender_vanished_the_next_one_knows_that_it_may_have_been_sent(
    records: Records, patient_id: UUID
) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    [lost] = records.claim_deliveries(NOON, lease_seconds=-1.0)
    [again] = records.claim_deliveries(NOON)
    assert (lost["may_have_been_sent"], again["may_have_been_sent"]) == (False, True)
    assert lost["idempotency_key"] == again["idempotency_key"]
    assert not accept(records, lost)
    assert fail(records, lost, NOON) == "leased"
    assert accept(records, again)


def test_an_attempt_without_an_answer_is_remembered(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    at = NOON
    for may_have_been_sent in (True, False):
        [delivery] = records.claim_deliveries(at)
        fail(records, delivery, at, may_have_been_sent=may_have_been_sent)
        at += timedelta(hours=1)
    assert records.claim_deliveries(at)[0]["may_have_been_sent"] is True


def test_the_most_urgent_goes_first(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    other_id = records.patient()
    records.judge(other_id)
    records.caregiver(other_id)
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    records.judge_at(other_id, NOON, at_cosine(CRITICAL))
    assert [row["level"] for row in records.claim_deliveries(NOON, count=1)] == ["critical"]


@pytest.mark.parametrize(
    ("similarity", "message"),
    [
        (
            WARNING,
            "Mum sounded different from usual on the phone at 13:00 on 2 March. Please call Mum today and hear"
            " how things are. Then say that you have seen this: https://care.example.org.",
        ),
        (
            EMERGENCY,
            "URGENT: Mum sounded very different from usual on the phone at 13:00 on 2 March. Please call or visit Mum"
            " now. If you cannot reach Mum, ask somebody nearby to look in. Then say that you have seen this:"
            " https://care.example.org.",
        ),
        (
            CRITICAL,
            "VERY URGENT: the voice on Mum's phone at 13:00 on 2 March was hardly like Mum's. Please see to Mum at"
            " once, or send somebody. If nobody can be reached, call the emergency services. Then say that you have"
            " seen this: https://care.example.org.",
        ),
    ],
)
def test_a_message_says_what_happened_and_what_to_do_in_plain_words(
    records: Records, patient_id: UUID, similarity: float, message: str
) -> None:
    records.do("update care.organisation_settings set dashboard_url = 'https://care.example.org'")
    records.caregiver(patient_id, patient_known_as="Mum", timezone="Europe/Berlin", language="xx")
    records.judge_at(patient_id, NOON, at_cosine(similarity))
    assert send_all(records, NOON)[0]["message"] == message
    records.run_due_jobs(NOON + timedelta(hours=4))
    assert send_all(records, NOON + timedelta(hours=4))[0]["message"] == "Nobody has answered yet. " + message


@pytest.mark.parametrize("missing", ["openings", "texts"])
def test_what_a_language_lacks_is_told_in_english_and_never_as_nothing(
    records: Records, patient_id: UUID, missing: str
) -> None:
    if missing == "openings":
        records.do(
            "insert into care.alert_texts values ('pt', 'voice_changed', 'warning', 'A voz de {patient} mudou.')"
        )
        expected = "Nobody has answered yet. A voz de Ana mudou."
    else:
        records.do("insert into care.alert_openings values ('pt', 'escalated', true, 'Ninguém respondeu. ', false)")
        expected = "Ninguém respondeu. URGENT: Ana sounded very different from usual on the phone at 12:00 on 2 March."
    records.caregiver(patient_id, language="pt")
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    records.run_due_jobs(NOON + timedelta(hours=1))
    [message] = [row["message"] for row in records.claim_deliveries(NOON + timedelta(hours=1))]
    assert message.startswith(expected)


def test_a_cause_without_any_text_is_told_all_the_same(records: Records, patient_id: UUID) -> None:
    records.do("delete from care.alert_texts")
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    [message] = [row["message"] for row in records.claim_deliveries(NOON)]
    assert message == "Ana: please call and hear how things are. Then say that you have seen this."


def test_who_goes_back_and_forth_sends_one_message_and_not_twenty(
    records: Records, patient_id: UUID, family: dict[str, UUID]
) -> None:
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    send_all(records, NOON)
    alert_id = records.one("select id from public.caregiver_alerts")
    now = datetime.now(UTC)
    for _ in range(10):
        records.rpc("acknowledge_alert", sub=family["family"], alert_id=alert_id)
        records.rpc("snooze_alert", sub=family["family"], alert_id=alert_id, until=now + timedelta(hours=1))
    records.rpc("acknowledge_alert", sub=family["family"], alert_id=alert_id)
    told_of = records.one(
        """select count(*) from care.deliveries join public.alert_changes on alert_changes.id = change_id
           where change = 'acknowledged'"""
    )
    assert told_of == 1  # the primary caregiver, who was told of the alert, hears once that it is seen to


def test_no_message_speaks_of_scores_or_names_an_illness(records: Records) -> None:
    texts = [
        row["text"]
        for row in records.rows("select text from care.alert_openings union all select text from care.alert_texts")
    ]
    words = (
        "score",
        "anomal",
        "threshold",
        "baseline",
        "embedding",
        "similarity",
        "severity",
        "%",
        "stroke",
        "ill",
        "sick",
        "disease",
    )
    assert [(text, word) for text in texts for word in words if word in text.lower().replace("still", "")] == []
    assert max(len(text) for text in texts) < 320  # two text messages


def test_another_language_is_rows(records: Records, patient_id: UUID) -> None:
    records.do("insert into care.alert_openings values ('de', 'opened', true, '', false)")
    records.do(
        "insert into care.alert_texts values ('de', 'voice_changed', 'warning', '{patient} klang anders als sonst.')"
    )
    records.caregiver(patient_id, language="de")
    records.judge_at(patient_id, NOON, at_cosine(CRITICAL))
    assert records.claim_deliveries(NOON)[0]["message"] == "Ana klang anders als sonst."


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (None, "the person you care for"),
        ("  ", "the person you care for"),
        ("A\nB", "A B"),
        ("x" * 99, "x" * 60),
        ("{who}", "who"),
    ],
)
def test_a_name_cannot_disturb_a_message(records: Records, patient_id: UUID, name: str | None, shown: str) -> None:
    records.do("update public.patients set name = %s", name)
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    assert records.claim_deliveries(NOON)[0]["message"].startswith(shown + " sounded different")


def test_operators_see_the_deliveries_and_caregivers_do_not(records: Records, patient_id: UUID) -> None:
    caregiver = records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(WARNING))
    [row] = records.seen("alert_deliveries")
    assert (row["state"], row["channel"]) == ("queued", "sms")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        records.seen("alert_deliveries", caregiver)


@pytest.mark.parametrize("channel", ["sms", "webhook", "console"])
def test_an_address_that_is_given_twice_is_told_once(records: Records, patient_id: UUID, channel: str) -> None:
    records.do("update care.delivery_channels set is_enabled = true")
    records.caregiver(
        patient_id,
        name="Maria",
        phone="+491",
        webhook_url="https://h.example.org",
        other_addresses=Jsonb({channel: "x"}),
    )
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    assert sorted((row["channel"], row["address"]) for row in records.claim_deliveries(NOON)) == [
        ("console", "Maria"), ("sms", "+491"), ("webhook", "https://h.example.org"),
    ]  # fmt: skip


def test_a_sender_that_vanished_and_an_address_that_went_leave_no_message_behind(
    records: Records, patient_id: UUID
) -> None:
    records.caregiver(patient_id)
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    records.claim_deliveries(NOON, lease_seconds=-1.0)
    records.do("update public.patient_caregivers set phone = null")
    assert records.claim_deliveries(NOON) == []
    assert records.row("select state, error_code from care.deliveries") == {
        "state": "dead",
        "error_code": "no_address",
    }


def test_senders_that_vanish_count_as_attempts(records: Records, patient_id: UUID) -> None:
    records.caregiver(patient_id)
    records.do("update care.settings set delivery_maximum_attempts = 3")
    records.judge_at(patient_id, NOON, at_cosine(EMERGENCY))
    for _ in range(3):
        assert len(records.claim_deliveries(NOON, lease_seconds=-1.0)) == 1
    assert records.claim_deliveries(NOON) == []
    found = records.row("select state, error_code from care.deliveries")
    assert found == {"state": "dead", "error_code": "attempts_exhausted"}
