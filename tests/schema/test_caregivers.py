"""Who manages caregivers, what each role may do, and who plays recordings."""

from __future__ import annotations

import datetime
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.databases import Database
from fixtures.records import Records, Row, at_cosine
from retrocare.database.migrations import migrate

OTHERS = ["viewer", "family", "clinician"]


@pytest.fixture
def primary(records: Records, patient_id: UUID) -> UUID:
    return records.caregiver(patient_id, "primary", name="Rui")


def row_of(records: Records, user_id: UUID) -> Row:
    return records.row("select * from public.patient_caregivers where user_id = %s", user_id)


def change(records: Records, sub: UUID, caregiver: Row, **changes: Any) -> Row:
    names = ("role", "name", "phone", "webhook_url", "user_id", "patient_known_as")
    values = {name: caregiver[name] for name in names} | changes
    [changed] = records.rpc("change_caregiver", sub=sub, caregiver_id=caregiver["id"], **values)
    return changed


def test_the_primary_caregiver_adds_another(records: Records, patient_id: UUID, primary: UUID) -> None:
    account = records.account()
    [added] = records.rpc(
        "add_caregiver",
        sub=primary,
        patient_id=patient_id,
        role="family",
        name="Eva",
        phone="+4930555",
        webhook_url="https://example.org/hook?x=1",
        user_id=account,
        patient_known_as="Granny",
    )
    assert added == row_of(records, account)
    assert (added["role"], added["phone"], added["patient_known_as"]) == ("family", "+4930555", "Granny")
    assert [row["patient_id"] for row in records.seen("caregiver_patients", account)] == [patient_id]


def test_a_caregiver_needs_no_account_and_no_address(records: Records, patient_id: UUID, primary: UUID) -> None:
    [added] = records.rpc("add_caregiver", sub=primary, patient_id=patient_id, role="viewer", name="Eva")
    assert (added["user_id"], added["phone"], added["webhook_url"]) == (None, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": None},
        {"phone": "030 123"},
        {"phone": ""},
        {"webhook_url": "example.org"},
        {"webhook_url": "file:///etc/passwd"},
        {"webhook_url": "http://example.org/hook"},
        {"webhook_url": "https://me:secret@example.org/"},
        {"user_id": UUID(int=1)},
    ],
    ids=str,
)
def test_what_cannot_be_a_caregiver_is_refused(
    records: Records, patient_id: UUID, primary: UUID, wrong: dict[str, Any]
) -> None:
    given = {"role": "family", "name": "Eva"} | wrong
    assert records.refusal("add_caregiver", primary, patient_id=patient_id, **given) == "PT400"
    with pytest.raises(psycopg.Error) as error:
        change(records, primary, row_of(records, primary), **wrong)
    assert error.value.sqlstate == "PT400"


def test_an_account_cares_for_a_patient_once(records: Records, patient_id: UUID, primary: UUID) -> None:
    given: dict[str, Any] = {"role": "family", "name": "Eva", "user_id": primary}
    assert records.refusal("add_caregiver", primary, patient_id=patient_id, **given) == "PT409"
    other = row_of(records, records.caregiver(patient_id, "family"))
    with pytest.raises(psycopg.Error) as error:
        change(records, primary, other, user_id=primary)
    assert error.value.sqlstate == "PT409"


def test_a_change_writes_all_of_a_caregivers_row(records: Records, patient_id: UUID, primary: UUID) -> None:
    before = row_of(records, records.caregiver(patient_id, "viewer", name="Eva"))
    after = change(records, primary, before, role="clinician", name="Dr. Eva", phone=None)
    assert after == before | {"role": "clinician", "name": "Dr. Eva", "phone": None}


def test_who_was_removed_sees_the_patient_no_more(records: Records, patient_id: UUID, primary: UUID) -> None:
    other = records.caregiver(patient_id, "family")
    assert records.seen("caregiver_patients", other)
    records.rpc("remove_caregiver", sub=primary, caregiver_id=row_of(records, other)["id"])
    assert records.seen("caregiver_patients", other) == []


@pytest.mark.parametrize("role", OTHERS)
def test_only_the_primary_caregiver_manages_caregivers(
    records: Records, patient_id: UUID, primary: UUID, role: str
) -> None:
    other = records.caregiver(patient_id, role)
    for caregiver in (row_of(records, primary), row_of(records, other)):
        with pytest.raises(psycopg.Error) as error:
            change(records, other, caregiver, role="primary")
        assert error.value.sqlstate == "PT403"
        assert records.refusal("remove_caregiver", other, caregiver_id=caregiver["id"]) == "PT403"
    assert records.refusal("add_caregiver", other, patient_id=patient_id, role="viewer", name="x") == "PT403"


def test_to_a_stranger_there_is_no_such_caregiver(records: Records, patient_id: UUID, primary: UUID) -> None:
    stranger = records.caregiver(records.patient(), "primary")
    caregiver = row_of(records, primary)
    with pytest.raises(psycopg.Error) as error:
        change(records, stranger, caregiver)
    assert error.value.sqlstate == "PT404"
    for caregiver_id in (caregiver["id"], uuid4(), None):
        assert records.refusal("remove_caregiver", stranger, caregiver_id=caregiver_id) == "PT404"
    for found in (patient_id, uuid4(), None):
        assert records.refusal("add_caregiver", stranger, patient_id=found, role="viewer", name="x") == "PT404"


def test_the_last_primary_caregiver_stays_primary(records: Records, patient_id: UUID, primary: UUID) -> None:
    records.rpc("add_caregiver", sub=primary, patient_id=patient_id, role="primary", name="without an account")
    caregiver = row_of(records, primary)
    for changes in ({"role": "family"}, {"user_id": None}, {"user_id": None, "role": "viewer"}):
        with pytest.raises(psycopg.Error) as error:
            change(records, primary, caregiver, **changes)
        assert error.value.sqlstate == "PT409"
    assert records.refusal("remove_caregiver", primary, caregiver_id=caregiver["id"]) == "PT409"
    assert row_of(records, primary) == caregiver


def test_with_another_primary_caregiver_one_may_go(records: Records, patient_id: UUID, primary: UUID) -> None:
    other = records.caregiver(patient_id, "primary")
    assert change(records, primary, row_of(records, primary), role="viewer")["role"] == "viewer"
    records.rpc("remove_caregiver", sub=other, caregiver_id=row_of(records, primary)["id"])
    assert records.refusal("remove_caregiver", other, caregiver_id=row_of(records, other)["id"]) == "PT409"


def test_of_two_primary_caregivers_who_remove_each_other_at_once_one_stays(
    records: Records, patient_id: UUID, primary: UUID
) -> None:
    other = records.caregiver(patient_id, "primary")
    pairs = [(primary, row_of(records, other)["id"]), (other, row_of(records, primary)["id"])]

    def remove(pair: tuple[UUID, UUID]) -> str | None:
        try:
            records.rpc("remove_caregiver", sub=pair[0], caregiver_id=pair[1])
        except psycopg.Error as error:
            return error.sqlstate
        return None

    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with ThreadPoolExecutor() as pool:
        holder = records.database.connect(records.database.owner_url)
        with holder.transaction():
            holder.execute("select from public.patients where id = %s for update", [patient_id])
            answers = [pool.submit(remove, pair) for pair in pairs]
            while records.database.admin.execute(waiting).fetchone() != (len(pairs),):
                time.sleep(0.01)
        ended = sorted((answer.result() for answer in answers), key=str)
    assert ended == [None, "PT403"]
    assert records.one("select count(*) from public.patient_caregivers where role = 'primary'") == 1


@pytest.mark.parametrize("role", ["viewer", None])
@pytest.mark.parametrize("function", ["acknowledge_alert", "export_patient", "withdraw_consent", "remove_caregiver"])
def test_who_loses_the_role_while_waiting_for_the_patient_is_refused(
    records: Records, patient_id: UUID, primary: UUID, function: str, role: str | None
) -> None:
    for similarity in (1.0, 0.1):
        records.judge(patient_id, at_cosine(similarity))
    arguments = {
        "acknowledge_alert": {"alert_id": records.one("select id from public.caregiver_alerts")},
        "remove_caregiver": {"caregiver_id": row_of(records, primary)["id"]},
    }.get(function, {"patient_id": patient_id})
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with ThreadPoolExecutor() as pool:
        holder = records.database.connect(records.database.owner_url)
        with holder.transaction():
            holder.execute("select from public.patients where id = %s for update", [patient_id])
            answer = pool.submit(records.refusal, function, primary, **arguments)
            while records.database.admin.execute(waiting).fetchone() != (1,):
                time.sleep(0.01)
            holder.execute("update public.patient_caregivers set role = 'viewer' where user_id = %s", [primary])
            if role is None:
                holder.execute("delete from public.patient_caregivers where user_id = %s", [primary])
        assert answer.result() == "PT403"


@pytest.mark.parametrize("role", ["primary", *OTHERS])
def test_every_caregiver_says_how_to_be_told(records: Records, patient_id: UUID, role: str) -> None:
    records.do("insert into care.alert_openings values ('de', 'opened', true, '', false)")
    caregiver, neighbour = records.caregiver(patient_id, role), records.caregiver(patient_id, role)
    before, untouched = row_of(records, caregiver), row_of(records, neighbour)
    given: dict[str, Any] = {
        "patient_known_as": "Granny",
        "language": "de",
        "timezone": "Europe/Berlin",
        "quiet_from": datetime.time(22),
        "quiet_until": datetime.time(6, 30),
    }
    [after] = records.rpc("set_my_preferences", sub=caregiver, patient_id=patient_id, **given)
    assert after == before | given == row_of(records, caregiver)
    assert row_of(records, neighbour) == untouched
    unset: dict[str, Any] = dict.fromkeys(given)
    [after] = records.rpc("set_my_preferences", sub=caregiver, patient_id=patient_id, **unset)
    assert after == before


def test_preferences_are_of_a_caregiver_of_the_patient(records: Records, patient_id: UUID, primary: UUID) -> None:
    unset: dict[str, Any] = dict.fromkeys(("patient_known_as", "language", "timezone", "quiet_from", "quiet_until"))
    stranger = records.caregiver(records.patient())
    assert records.refusal("set_my_preferences", stranger, patient_id=patient_id, **unset) == "PT404"
    wrong = unset | {"timezone": "PST/8"}
    assert records.refusal("set_my_preferences", primary, patient_id=patient_id, **wrong) == "PT400"


def test_a_language_without_messages_is_refused(records: Records, patient_id: UUID, primary: UUID) -> None:
    unset: dict[str, Any] = dict.fromkeys(("patient_known_as", "timezone", "quiet_from", "quiet_until"))
    with pytest.raises(psycopg.Error) as raised:
        records.rpc("set_my_preferences", primary, patient_id=patient_id, language="pt", **unset)
    assert (raised.value.sqlstate, raised.value.diag.message_hint) == ("PT400", "Messages exist in: en.")


def test_a_webhook_without_tls_is_refused_by_the_table_as_well(records: Records, patient_id: UUID) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.caregiver(patient_id, webhook_url="http://example.org/hook")
    assert raised.value.diag.constraint_name == "a_webhook_is_reached_over_https"


def test_an_operator_manages_caregivers_of_whom_none_has_an_account(records: Records, patient_id: UUID) -> None:
    added = records.call("add_caregiver", patient_id, "primary", "Eva", "+4930555", None, None, "Mum")
    assert (added["role"], added["phone"], added["language"]) == ("primary", "+4930555", "en")
    changed = records.call("change_caregiver", added["id"], "family", "Eva", "+4930556", None, None, None)
    assert (changed["role"], changed["phone"], changed["patient_known_as"]) == ("family", "+4930556", None)
    [listed] = records.rows("select * from care.caregiver_list(%s)", patient_id)
    assert (listed["name"], listed["is_reachable"]) == ("Eva", True)
    records.call("remove_caregiver", added["id"])
    assert records.rows("select * from care.caregiver_list(%s)", patient_id) == []
    for function, values in (
        ("remove_caregiver", [added["id"]]),
        ("change_caregiver", [added["id"], "family", *[None] * 5]),
    ):
        with pytest.raises(psycopg.Error) as raised:
            records.call(function, *values)
        assert raised.value.sqlstate == "PT404"


@pytest.mark.parametrize("role", OTHERS)
def test_the_primary_caregiver_sees_who_cares_and_others_only_themselves(
    records: Records, patient_id: UUID, primary: UUID, role: str
) -> None:
    other = records.caregiver(patient_id, role)
    records.caregiver(records.patient())
    assert {row["user_id"] for row in records.seen("patient_caregivers", primary)} == {primary, other}
    assert {row["user_id"] for row in records.seen("patient_caregivers", other)} == {other}


@pytest.mark.parametrize("role", ["primary", *OTHERS])
def test_who_cares_for_two_patients_has_each_role_where_it_was_given(records: Records, role: str) -> None:
    first, second = records.patient(), records.patient()
    caregiver = records.caregiver(first, role)
    records.do(
        "insert into public.patient_caregivers (patient_id, user_id, role) values (%s, %s, 'viewer')",
        second,
        caregiver,
    )
    for patient_id in (first, second):
        for similarity in (1.0, 0.5):
            records.judge(patient_id, at_cosine(similarity))
    with records.database.as_role("authenticated", str(caregiver)) as api:
        assert api.execute("update voice_anomaly_logs set notes = 'x'").rowcount == (0 if role == "viewer" else 1)


@pytest.mark.parametrize("role", ["primary", *OTHERS])
def test_recordings_are_played_by_who_acts_and_of_their_patients_alone(
    records: Records, patient_id: UUID, role: str
) -> None:
    caregiver, other = records.caregiver(patient_id, role), records.patient()
    records.do("insert into storage.buckets (id, name) values ('other', 'other')")
    for bucket, name in (
        ("voice-recordings", f"{patient_id}/1.wav"),
        ("voice-recordings", f"{other}/2.wav"),
        ("voice-recordings", f"x/{patient_id}/3.wav"),
        ("voice-recordings", f"{patient_id}"),
        ("other", f"{patient_id}/4.wav"),
    ):
        records.do("insert into storage.objects (bucket_id, name) values (%s, %s)", bucket, name)
    with records.database.as_role("authenticated", str(caregiver)) as api:
        found = {name for (name,) in api.execute("select name from storage.objects")}
        assert found == (set() if role == "viewer" else {f"{patient_id}/1.wav", f"{patient_id}"})
        assert api.execute("update storage.objects set name = 'x'").rowcount == 0
        assert api.execute("delete from storage.objects").rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            api.execute(
                "insert into storage.objects (bucket_id, name) values ('voice-recordings', %s)", [f"{patient_id}/9.wav"]
            )


def test_without_storage_everything_else_is_there(empty_database: Database) -> None:
    empty_database.admin.execute("drop schema storage cascade")
    migrate(empty_database.owner_url)
    assert empty_database.owner.execute("select count(*) from caregiver_patients").fetchone() == (0,)


POLICED = ["call_logs", "voice_anomaly_logs", "caregiver_alerts", "voice_timeline"]


@pytest.mark.parametrize("relation", POLICED)
def test_who_may_see_is_worked_out_once_a_query(records: Records, relation: str) -> None:
    caregiver = records.caregiver(records.patient())
    with records.database.as_role("authenticated", str(caregiver)) as api:
        plan = "\n".join(
            line for (line,) in api.execute(f"explain (verbose) select patient_id from {relation}".encode())
        )
    assert "InitPlan" in plan
    # The function stands in plans that run once, never in a filter of the table.
    assert "patients_of_caller" in plan
    assert not [line for line in plan.splitlines() if "Filter" in line and "patients_of_caller" in line]
