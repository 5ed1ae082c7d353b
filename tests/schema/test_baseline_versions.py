"""The way back from a wrong enrolment, and the way out for a wrong sample."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from fixtures.records import NOON, USUAL, Records, at_cosine, text

OTHER = (0.0, 1.0, 0.0)


@pytest.fixture
def patient_id(records: Records) -> UUID:
    """A patient whose baseline, of three usual recordings, was replaced by three of somebody else."""
    patient_id = records.patient()
    records.enrol(patient_id, USUAL, USUAL, USUAL)
    records.enrol(patient_id, OTHER, OTHER, OTHER)
    return patient_id


def versions(records: Records, patient_id: UUID) -> dict[int, tuple[bool, int]]:
    rows = records.rows("select * from voice.baseline_versions(%s, null)", patient_id)
    return {row["version"]: (row["is_current"], row["kept_samples"]) for row in rows}


def current(records: Records, patient_id: UUID) -> str:
    found = records.baseline(patient_id)
    assert found is not None
    return str(found["embedding"])


def test_the_samples_of_an_earlier_version_are_made_current_again(records: Records, patient_id: UUID) -> None:
    assert current(records, patient_id) == "[0,1,0]"
    made = records.call("restore_baseline", patient_id, 3)["restore_baseline"]
    assert (made, current(records, patient_id)) == (max(versions(records, patient_id)), "[1,0,0]")
    assert versions(records, patient_id)[made] == (True, 3)
    assert records.judge(patient_id, at_cosine(0.95))["severity"] == "low"


@pytest.mark.parametrize("version", [99, 4])
def test_a_version_that_is_not_there_or_is_current_is_not_restored(
    records: Records, patient_id: UUID, version: int
) -> None:
    before = versions(records, patient_id)
    with pytest.raises(psycopg.Error) as raised:
        records.call("restore_baseline", patient_id, version)
    assert raised.value.sqlstate == "PT409"
    assert versions(records, patient_id) == before


def test_samples_of_days_that_were_flagged_since_do_not_come_back(records: Records, patient_id: UUID) -> None:
    for days in (30, 29, 28):
        records.call("flag_patient", patient_id, "flu", NOON - timedelta(days=days, hours=1))
        records.call("unflag_patient", patient_id, None, NOON - timedelta(days=days, hours=-1))
    with pytest.raises(psycopg.Error) as raised:
        records.call("restore_baseline", patient_id, 3)
    assert (raised.value.sqlstate, "No sample of version 3" in str(raised.value)) == ("PT409", True)


def test_a_wrong_sample_leaves_the_baseline_and_the_others_stay(records: Records) -> None:
    patient_id = records.patient()
    *_, wrong = records.enrol(patient_id, USUAL, USUAL, OTHER)
    before = current(records, patient_id)
    assert records.call("withdraw_sample", patient_id, wrong["call_log_id"])["withdraw_sample"] == 1
    assert (before != current(records, patient_id), current(records, patient_id)) == (True, "[1,0,0]")
    for call_log_id in (wrong["call_log_id"], uuid4()):
        with pytest.raises(psycopg.Error) as raised:
            records.call("withdraw_sample", patient_id, call_log_id)
        assert raised.value.sqlstate == "RV003"


def test_a_sample_is_not_withdrawn_from_another_patient(records: Records, patient_id: UUID) -> None:
    other_id = records.patient()
    [sample] = records.enrol(other_id, USUAL)
    with pytest.raises(psycopg.Error) as raised:
        records.call("withdraw_sample", patient_id, sample["call_log_id"])
    assert raised.value.sqlstate == "RV003"
    assert records.baseline(other_id) is not None


@pytest.mark.parametrize(("similarity", "is_unlike"), [(0.9, False), (0.7, True)])
def test_a_voice_is_compared_with_a_complete_baseline_and_nothing_is_stored(
    records: Records, similarity: float, is_unlike: bool
) -> None:
    patient_id = records.patient()
    records.enrol(patient_id, USUAL, USUAL, USUAL)
    compare = "select * from voice.compare_with_baseline(%s, 'test-v1', %s::text::extensions.vector, 30)"
    [compared] = records.rows(compare, patient_id, text(at_cosine(similarity)))
    assert compared["is_unlike"] is is_unlike
    assert compared["anomaly_score"] == pytest.approx(1 - similarity, abs=1e-6)
    [on_a_noisy_line] = records.rows(compare.replace("30)", "8)"), patient_id, text(at_cosine(similarity)))
    assert on_a_noisy_line["is_unlike"] is is_unlike
    assert records.one("select count(*) from voice.embeddings") == 3
    beginner = records.patient()
    records.enrol(beginner, USUAL)
    assert records.rows(compare, beginner, text(OTHER)) == []
