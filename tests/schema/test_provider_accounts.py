"""Accounts with phone providers: a call is known by its account and the account's id for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from fixtures.records import NOON, Records

REPORT: dict[str, Any] = {"ended_reason": "customer-ended-call", "started_at": NOON, "at": NOON}


@pytest.fixture
def second(records: Records) -> str:
    """Add a second account with the same provider, of another organisation."""
    records.do("insert into public.organisations (name) values ('Elsewhere')")
    records.do(
        """insert into care.provider_accounts (id, provider, organisation_id)
           select 'vapi-berlin', 'vapi', id from public.organisations where name = 'Elsewhere'"""
    )
    return "vapi-berlin"


def moved(records: Records, patient_id: UUID) -> None:
    """Make a patient the other organisation's."""
    elsewhere = "(select id from public.organisations where name = 'Elsewhere')"
    records.do(f"update public.patients set organisation_id = {elsewhere} where id = %s", patient_id)


def report(records: Records, account: str | None, call: str = "call-1", **values: Any) -> dict[str, Any]:
    [received] = records.rpc(
        "receive_call_report", provider="vapi", provider_call_id=call, account=account, **REPORT, **values
    )
    return received


def accounts(records: Records) -> list[tuple[str, str]]:
    rows = records.rows("select provider, provider_account from public.call_logs order by id")
    return [(row["provider"], row["provider_account"]) for row in rows]


def test_two_accounts_may_give_two_calls_the_same_id(records: Records, second: str) -> None:
    one, other = records.patient(), records.patient()
    moved(records, other)
    first = report(records, None, patient_id=one)
    theirs = report(records, second, patient_id=other)
    assert (first["is_new"], theirs["is_new"]) == (True, True)
    assert first["call_log_id"] != theirs["call_log_id"]
    assert report(records, "vapi", patient_id=other) == first | {"is_new": False}
    assert report(records, second, patient_id=one) == theirs | {"is_new": False}
    assert accounts(records) == [("vapi", "vapi"), ("vapi", second)]
    with pytest.raises(psycopg.errors.UniqueViolation) as raised:
        records.do("update public.call_logs set provider_account = 'vapi'")
    assert raised.value.diag.constraint_name == "a_provider_account_reports_a_call_once"


def test_an_integrator_writes_the_calls_of_each_account_apart(records: Records, second: str) -> None:
    one, other = records.patient(), records.patient()
    call: dict[str, Any] = {"provider": "vapi", "provider_call_id": "call-1"}
    of_account: list[tuple[UUID, dict[str, Any]]] = [
        (one, {}),
        (other, {"account": second}),
        (one, {"account": "vapi"}),
    ]
    written = [
        records.rpc("upsert_call", patient_id=patient_id, **call, **account)[0]["upsert_call"]
        for patient_id, account in of_account
    ]
    assert written[0] == written[2] != written[1]
    assert records.refusal("upsert_call", patient_id=other, **call) == "RV006"
    assert records.refusal("upsert_call", patient_id=one, **call, account="nobody's") == "PT400"
    assert records.refusal("upsert_call", patient_id=one, **call | {"provider": "a/b"}) == "PT400"


def test_a_call_that_is_written_directly_is_of_its_providers_own_account(records: Records, second: str) -> None:
    patient_id = records.patient()
    insert = "insert into call_logs (patient_id, provider, provider_call_id) values (%s, %s, 'call-1')"
    with records.database.as_role("service_role") as api:
        for provider in ("vapi", "acme"):
            api.execute(insert.encode(), [patient_id, provider])
        with pytest.raises(psycopg.errors.UniqueViolation):
            api.execute(insert.encode(), [patient_id, "acme"])
        api.execute(b"insert into call_logs (patient_id, summary) values (%s, 'of no provider')", [patient_id])
    assert accounts(records) == [("vapi", "vapi"), ("acme", "acme"), (None, None)]
    assert records.rpc("upsert_call", patient_id=patient_id, provider="beta", provider_call_id="call-1")
    assert accounts(records)[-1] == ("beta", "beta")


def test_a_call_is_of_an_account_with_its_provider(records: Records, second: str) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as raised:
        records.do(
            "insert into public.call_logs (patient_id, provider, provider_account) values (%s, 'acme', %s)",
            records.patient(), second,
        )  # fmt: skip
    assert raised.value.diag.constraint_name == "a_call_is_of_its_providers_account"


def test_of_several_accounts_none_of_which_is_the_providers_own_one_must_be_named(records: Records) -> None:
    patient_id = records.patient()
    records.do("insert into care.providers (id) values ('acme')")
    call: dict[str, Any] = {"patient_id": patient_id, "provider": "acme", "provider_call_id": "call-1"}
    assert records.refusal("receive_call_report", **call, **REPORT) == "PT400"
    records.do("insert into care.provider_accounts (id, provider) values ('acme-north', 'acme')")
    assert records.rpc("receive_call_report", **call, **REPORT)[0]["is_new"]
    records.do("insert into care.provider_accounts (id, provider) values ('acme-south', 'acme')")
    for function, values in (("receive_call_report", REPORT), ("upsert_call", {})):
        assert records.refusal(function, **call, **values) == "PT400"
        assert records.refusal(function, **call, **values, account="vapi") == "PT400"
    assert records.rpc("receive_call_report", **call, **REPORT, account="acme-south")[0]["is_new"]


def test_each_account_is_reconciled_by_itself(records: Records, second: str) -> None:
    report(records, None, patient_id=records.patient())
    listed: dict[str, Any] = {"provider": "vapi", "provider_call_ids": ["call-1", "call-2"]}

    def unreported(**account: Any) -> set[str]:
        return {row["unreported_calls"] for row in records.rpc("unreported_calls", **listed, **account)}

    assert (unreported(), unreported(account=second)) == ({"call-2"}, {"call-1", "call-2"})
    records.rpc("finish_reconciliation", provider="vapi", until=NOON, account=second)

    def since(**account: Any) -> Any:
        return records.rpc("reconcile_since", provider="vapi", at=NOON, **account)[0]["reconcile_since"]

    assert (since(), since(account=second)) == (NOON - timedelta(days=14), NOON - timedelta(hours=1))
    assert since(account="nobody's") is None


def test_a_report_of_nobody_waits_with_its_account_and_means_a_number_of_its_organisation(
    records: Records, second: str
) -> None:
    for account in ("vapi", second):
        assert report(records, account, phone="+4930123456")["is_new"]
        assert not report(records, account, phone="+4930123456")["is_new"]
    subjects = [row["subject"] for row in records.seen("operator_issues") if row["kind"] == "unmatched_call"]
    assert sorted(subjects) == ["vapi call-1", f"{second} call-1"]
    here, there = records.patient(), records.patient()
    records.do("update public.patients set phone = '+4930123456'")
    records.do(
        "update public.patients set organisation_id = (select id from public.organisations where name = 'Elsewhere')"
        " where id = %s", there,
    )  # fmt: skip
    assert records.run_due_jobs(NOON)["match_calls"] == 2
    matched = records.rows("select patient_id, provider_account from public.call_logs")
    assert {(row["patient_id"], row["provider_account"]) for row in matched} == {(here, "vapi"), (there, second)}


def test_what_one_account_has_erased_another_may_still_report(records: Records, second: str) -> None:
    one, other = records.patient(), records.patient()
    moved(records, other)
    call_log_id = report(records, None, patient_id=one)["call_log_id"]
    records.do("delete from public.call_logs where id = %s", call_log_id)
    reference = "select reference from care.deletions where kind = 'provider_call'"
    assert records.one(reference) == "vapi/call-1"
    assert report(records, None, patient_id=one)["disposition"] == "erased"
    taken = report(records, second, patient_id=other)
    assert taken["disposition"] == "judge"
    records.do("delete from public.call_logs where id = %s", taken["call_log_id"])
    assert records.one(reference + " order by id desc limit 1") == f"{second}/call-1"


def disposition(records: Records, provider: str, ended_reason: str, patient_id: UUID) -> str:
    [received] = records.rpc(
        "receive_call_report", provider=provider, provider_call_id=f"{ended_reason}", patient_id=patient_id,
        ended_reason=ended_reason, started_at=NOON, at=NOON,
    )  # fmt: skip
    return str(received["disposition"])


def test_the_same_words_may_mean_something_else_at_another_provider(records: Records) -> None:
    patient_id = records.patient()
    records.do("insert into care.providers (id) values ('acme')")
    records.do("insert into care.provider_accounts (id, provider) values ('acme', 'acme')")
    records.do(
        """insert into care.ended_reasons (provider, pattern, disposition, reason) values
           ('acme', '%%busy%%', 'judge', null), ('acme', 'customer-ended-call', 'skip', 'call_failed')"""
    )
    for ended_reason, at_vapi, at_acme in (
        ("customer-busy", "skip", "judge"),
        ("customer-ended-call", "judge", "skip"),
        ("voicemail", "skip", "skip"),  # a word of which the provider has no row
        ("beamed-up", "unknown", "unknown"),
    ):
        assert disposition(records, "vapi", ended_reason, patient_id) == at_vapi
        assert disposition(records, "acme", ended_reason, patient_id) == at_acme
    records.do("insert into care.ended_reasons (provider, pattern, disposition) values ('acme', 'beamed-up', 'judge')")
    assert records.run_due_jobs(NOON)["redecide_calls"] == 2


def test_a_report_means_nobody_of_another_organisation(records: Records, second: str) -> None:
    ours = records.patient()
    assert report(records, second, "call-9", patient_id=ours)["disposition"] == "unmatched"
    assert report(records, None, "call-9", patient_id=ours)["disposition"] == "judge"


def test_an_erased_persons_waiting_reports_are_not_taken_in_as_somebody_elses(records: Records, second: str) -> None:
    ana, bo = records.patient(), records.patient()
    records.do("update public.patients set phone = '+4930555555'")
    for account in (None, second):
        assert report(records, account, "call-a", phone="+4930555555")["disposition"] == "unmatched"
    records.call("erase_patient", ana, "asked")
    waiting = records.rows("select provider_account from care.unmatched_calls")
    assert waiting == [{"provider_account": second}], "those of another organisation wait on"
    assert records.rpc("unreported_calls", provider="vapi", provider_call_ids=["call-a"]) == []
    assert report(records, None, "call-a", phone="+4930555555")["disposition"] == "erased"
    assert records.rows("select * from public.call_logs where patient_id = %s", bo) == []


def test_a_call_at_a_provider_whose_key_nobody_has_is_noted_as_erased_and_deleted_by_nobody(records: Records) -> None:
    patient_id = records.patient()
    written: dict[str, Any] = {"patient_id": patient_id, "provider": "acme", "provider_call_id": "c-1"}
    records.rpc("upsert_call", **written)
    records.call("erase_patient_voice", patient_id, "asked")
    assert records.rows("select reference, state from care.deletions") == [{"reference": "acme/c-1", "state": "done"}]
    assert records.refusal("upsert_call", **written) == "PT409"


def test_a_pattern_that_cannot_be_matched_is_refused(records: Records) -> None:
    add = "insert into care.ended_reasons (provider, pattern, disposition) values ('vapi', %s, 'judge')"
    for pattern in ("over\\", "over\\\\\\"):
        with pytest.raises(psycopg.errors.CheckViolation):
            records.do(add, pattern)
    records.do(add, "over\\\\")
