"""Baselines: averaging, spread, versions, enrolment and the health rule."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.records import DIMENSION, NOON, USUAL, Records, at_cosine

oracle = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parsed(vector: str) -> Any:
    return np.array([float(component) for component in vector.strip("[]").split(",")])


@oracle
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8))
def test_the_average_and_its_spread_agree_with_numpy(records: Records, seed: int, count: int) -> None:
    records.set_policy(baseline_minimum_samples=1, baseline_target_samples=20)
    generator = np.random.default_rng(seed)
    voices = generator.normal(size=(count, DIMENSION)) * 0.3 + np.array(USUAL)
    voices = (voices / np.linalg.norm(voices, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    patient_id = records.patient()
    records.enrol(patient_id, *voices.tolist())
    found = records.baseline(patient_id)
    assert found is not None
    mean = voices.mean(axis=0)
    assert parsed(found["embedding"]) == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert found["sample_count"] == count
    if count == 1:
        assert (found["spread_mean"], found["spread_deviation"]) == (None, None)
        return
    distances = []
    for one in range(count):
        others = np.delete(voices, one, axis=0).mean(axis=0)
        distances.append(1 - voices[one] @ others / np.linalg.norm(others))
    assert found["spread_mean"] == pytest.approx(np.mean(distances), abs=1e-6)
    assert found["spread_deviation"] == pytest.approx(np.std(distances, ddof=1), abs=1e-6)


def test_healthy_low_calls_are_added_until_the_target(records: Records) -> None:
    patient_id = records.patient()
    added = [records.judge(patient_id, at_cosine(0.99))["added_to_baseline"] for _ in range(7)]
    assert added == [True] * 5 + [False] * 2
    versions = records.rows(
        "select version, sample_count, superseded_at is null as current from voice.baselines order by 1"
    )
    assert [(row["version"], row["sample_count"], row["current"]) for row in versions] == [
        (n, n, n == 5) for n in range(1, 6)
    ]


def test_a_call_above_the_threshold_is_not_added(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    assert records.judge(patient_id, at_cosine(0.7))["added_to_baseline"] is False


def test_a_baseline_below_its_minimum_is_provisional_and_scores_say_so(records: Records) -> None:
    patient_id = records.patient()
    for _ in range(4):
        records.judge(patient_id)
    provisional = records.rows("select is_provisional from public.voice_anomaly_logs order by created_at")
    assert [row["is_provisional"] for row in provisional] == [True, True, False]


def test_onboarding_recordings_enrol_and_are_never_scored(records: Records) -> None:
    patient_id = records.patient()
    results = records.enrol(patient_id, USUAL, at_cosine(0.95), at_cosine(0.2))
    assert [(row["state"], row["added_to_baseline"]) for row in results] == [("enrolled", True)] * 3
    baseline = records.baseline(patient_id)
    assert baseline is not None
    assert baseline["sample_count"] == 3
    assert records.one("select count(*) from public.voice_anomaly_logs") == 0


def test_onboarding_replaces_a_provisional_baseline_of_first_calls(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id, at_cosine(0.0))
    records.enrol(patient_id, USUAL)
    baseline = records.baseline(patient_id)
    assert baseline is not None
    assert baseline["sample_count"] == 1
    assert parsed(baseline["embedding"]) == pytest.approx(USUAL, abs=1e-6)


def test_enrolling_again_starts_a_new_baseline_that_takes_over_once_it_is_complete(records: Records) -> None:
    patient_id = records.patient()
    records.enrol(patient_id, USUAL, USUAL, USUAL)
    again = uuid4()
    changed = at_cosine(0.0)
    results = records.enrol(patient_id, changed, changed, enrolment_id=again)
    assert [row["added_to_baseline"] for row in results] == [False, False]
    kept = records.baseline(patient_id)
    assert kept is not None
    assert parsed(kept["embedding"]) == pytest.approx(USUAL, abs=1e-6)

    [last] = records.enrol(patient_id, changed, enrolment_id=again)
    assert last["added_to_baseline"] is True
    taken_over = records.baseline(patient_id)
    assert taken_over is not None
    assert parsed(taken_over["embedding"]) == pytest.approx(changed, abs=1e-6)
    assert (taken_over["sample_count"], taken_over["enrolment_id"]) == (3, again)


def test_an_onboarding_recording_belongs_to_an_enrolment(records: Records) -> None:
    """Alone, each would replace a complete baseline by itself."""
    with pytest.raises(psycopg.errors.CheckViolation) as raised:
        records.call_log(records.patient(), source="onboarding")
    assert raised.value.diag.constraint_name == "an_onboarding_recording_is_of_an_enrolment"


def test_a_version_never_changes(records: Records) -> None:
    records.judge(records.patient())
    for change in (
        "update voice.baselines set embedding = '[0,1,0]'",
        "update voice.baselines set sample_count = 7",
        "update voice.baseline_samples set baseline_id = baseline_id",
    ):
        with pytest.raises(psycopg.Error) as raised:
            records.do(change)
        assert raised.value.sqlstate == "55000"


# The health rule.


def test_a_sick_patients_first_call_is_held_and_enrols_nothing(records: Records) -> None:
    patient_id = records.patient()
    records.call("flag_patient", patient_id, "bronchitis", NOON - timedelta(days=1))
    result = records.judge(patient_id)
    assert (result["state"], result["reason"], result["anomaly_score"]) == ("held", "sick_without_baseline", None)
    assert records.one("select count(*) from voice.embeddings") == 0


def test_a_sick_patients_onboarding_is_held(records: Records) -> None:
    patient_id = records.patient()
    records.call("flag_patient", patient_id, "bronchitis", NOON - timedelta(days=60))
    [result] = records.enrol(patient_id, USUAL)
    assert (result["state"], result["reason"]) == ("held", "sick_at_enrolment")


def test_a_sick_patient_with_a_baseline_is_scored_and_not_added(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id, at=NOON - timedelta(days=9))
    records.call("flag_patient", patient_id, "bronchitis", NOON - timedelta(days=1))
    result = records.judge(patient_id)
    assert (result["state"], result["added_to_baseline"]) == ("scored", False)


def test_a_held_check_stays_held(records: Records) -> None:
    patient_id = records.patient()
    records.call("flag_patient", patient_id, "bronchitis", NOON - timedelta(days=1))
    call_log_id = records.judge(patient_id)["call_log_id"]
    records.call("unflag_patient", patient_id, None, NOON - timedelta(hours=1))
    assert records.open(call_log_id)["lease_token"] is None
    assert records.judge(patient_id)["state"] == "enrolled"


@pytest.mark.parametrize("word", ["sick", "illness", "pain", "fever", "cough", "cold", "flu", "injury"])
def test_a_word_of_sickness_among_the_patients_flags_holds_the_call(records: Records, word: str) -> None:
    for flag in (word, f"has {word.upper()} today", f"mild_{word}"):
        patient_id = records.patient()
        records.do("update public.patients set flags = array['walks daily', %s] where id = %s", flag, patient_id)
        assert records.judge(patient_id)["state"] == "held", flag


@pytest.mark.parametrize("flag", ["painter", "likes coldplay", "fluent in French", "hearing aid", ""])
def test_other_words_hold_nothing(records: Records, flag: str) -> None:
    patient_id = records.patient()
    records.do("update public.patients set flags = array[%s] where id = %s", flag, patient_id)
    assert records.judge(patient_id)["state"] == "enrolled"


def test_words_of_sickness_are_rows(records: Records) -> None:
    records.do("insert into care.sickness_words (word) values ('croaky')")
    patient_id = records.patient()
    records.do("update public.patients set flags = '{Croaky}' where id = %s", patient_id)
    assert records.judge(patient_id)["state"] == "held"


@pytest.mark.parametrize(
    ("hours", "state"), [(-1, "enrolled"), (0, "held"), (23, "held"), (24, "enrolled")], ids=lambda v: str(v)
)
def test_a_health_flag_counts_from_its_start_until_it_is_resolved(records: Records, hours: int, state: str) -> None:
    patient_id = records.patient()
    records.call("flag_patient", patient_id, "bronchitis", NOON)
    records.call("unflag_patient", patient_id, "bronchitis", NOON + timedelta(days=1))
    assert records.judge(patient_id, at=NOON + timedelta(hours=hours))["state"] == state


def test_a_late_sickness_flag_withdraws_the_samples_that_it_covers(records: Records) -> None:
    patient_id = records.patient()
    voices = [USUAL, at_cosine(0.99), at_cosine(0.98)]
    for day, voice in enumerate(voices):
        records.judge(patient_id, voice, NOON + timedelta(days=day))
    records.call("flag_patient", patient_id, "bronchitis", NOON + timedelta(days=1, hours=-1))
    baseline = records.baseline(patient_id)
    assert baseline is not None
    assert (baseline["version"], baseline["sample_count"]) == (4, 1)
    assert parsed(baseline["embedding"]) == pytest.approx(USUAL, abs=1e-6)


def test_a_late_flag_written_by_the_dashboard_withdraws_too(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    with records.database.as_role("service_role") as api:
        api.execute(
            "insert into health_flags (patient_id, flag, started_at) values (%s, 'flu', %s)", [patient_id, NOON]
        )
    assert records.baseline(patient_id) is None


def test_with_every_sample_withdrawn_the_next_healthy_call_enrols(records: Records) -> None:
    patient_id = records.patient()
    records.judge(patient_id)
    records.call("flag_patient", patient_id, "bronchitis", NOON - timedelta(hours=1))
    records.call("unflag_patient", patient_id, None, NOON + timedelta(days=1))
    assert records.baseline(patient_id) is None
    assert records.judge(patient_id, at_cosine(0.5), NOON + timedelta(days=2))["state"] == "enrolled"
    baseline = records.baseline(patient_id)
    assert baseline is not None
    assert baseline["version"] == 2
