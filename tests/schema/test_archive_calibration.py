"""voice.calibrate_archive(): a calibration of the stored history, of voices that were drawn with known variances."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import psycopg
import pytest

from fixtures.calibrated import calibrate, unit
from fixtures.records import NOON, Records, text

ENCODER, DIMENSION = "drawn", 96
CALL_VARIANCES = {30.0: 0.02, 20.0: 0.04, 10.0: 0.08}  # by SNR
SPEECH_VARIANCE = 0.15
CALLS = 24


def remember(
    records: Records, patients: int, calls: int = CALLS, snrs_db: tuple[float, ...] = (30, 30, 20, 10)
) -> list[UUID]:
    """Store calls of patients, at several lengths and levels of noise, as if each had been judged."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(patients):
        patient_id = records.patient()
        found.append(patient_id)
        mean = unit(random.normal(size=DIMENSION))
        rows = []
        for n in range(calls):
            snr_db, seconds = snrs_db[n % len(snrs_db)], (4.0, 8.0, 16.0)[n % 3]
            variance = CALL_VARIANCES[snr_db] + SPEECH_VARIANCE / seconds
            voice = unit(mean + random.normal(0, np.sqrt(variance / DIMENSION), DIMENSION))
            rows.append((patient_id, NOON, n, patient_id, ENCODER, text(voice.tolist()), seconds, snr_db))
        with records.database.admin.cursor() as cursor:
            cursor.executemany(
                """with call as (
                       insert into public.call_logs (patient_id, "timestamp", check_state)
                       values (%s, %s + %s * interval '1 day', 'scored') returning id
                   )
                   insert into voice.embeddings (
                       patient_id, call_log_id, encoder, embedding, audio_sha256, speech_seconds, snr_db
                   )
                   select %s, call.id, %s, %s::extensions.vector, sha256(call.id::text::bytea), %s, %s from call""",
                rows,
            )
    return found


def coverage(records: Records) -> dict[str, object]:
    found: dict[str, object] = records.call("archive_coverage", ENCODER)["archive_coverage"]
    return found


@pytest.fixture
def archive(records: Records) -> Records:
    records.register(ENCODER, DIMENSION)
    return records


def test_the_variances_that_made_the_stored_voices_are_recovered(archive: Records) -> None:
    remember(archive, 40)
    document = archive.call("calibrate_archive", ENCODER)["calibrate_archive"]
    for found, call_variance in zip(document["bins"]["raw"], CALL_VARIANCES.values(), strict=True):
        assert found["call_variance"] == pytest.approx(call_variance, rel=0.15)
        assert found["speech_variance"] == pytest.approx(SPEECH_VARIANCE, rel=0.25)
        assert found["log_bias"] == pytest.approx(0, abs=0.1)
        assert found["log_deviation"] == pytest.approx(np.sqrt(2 / DIMENSION), rel=0.3)
        assert found["other_log_mean"] == pytest.approx(0, abs=0.1)
    assert document["prior"]["variance"] == pytest.approx(1, abs=0.3)
    assert (document["bins"]["whitened"], document["projection"]) == (None, None)
    assert document["provenance"]["people"] == 40
    assert calibrate(archive, document) > 0


def test_a_short_history_is_refused_with_what_is_missing(archive: Records) -> None:
    remember(archive, 3, snrs_db=(30, 20))
    found = coverage(archive)
    assert (found["patients"], found["patients_with_20_calls"], found["calls"]) == (3, 3, 72)
    assert found["missing"] == [
        "37 more patients with 20 healthy calls, 4 of them at 25 dB or more",
        "7 more of them with calls below 25 dB",
        "10 more of them with calls below 15 dB",
    ]
    with pytest.raises(psycopg.Error) as refused:
        archive.call("calibrate_archive", ENCODER)
    assert refused.value.sqlstate == "PT409"
    assert "37 more patients" in str(refused.value.diag.message_hint)


def test_calls_of_the_ill_and_of_others_are_left_out(archive: Records) -> None:
    well, ill = remember(archive, 2, snrs_db=(30,))
    archive.do("insert into public.health_flags (patient_id, flag, started_at) values (%s, 'flu', %s)", ill, NOON)
    assert coverage(archive)["patients"] == 1
    archive.do("update public.patients set flags = '{cough}' where id = %s", well)
    assert coverage(archive)["patients"] == 0


def test_where_too_few_have_noisy_calls_those_bins_and_the_projection_are_of_the_calibration_in_use(
    archive: Records,
) -> None:
    bins = [
        {"snr_from": snr, "call_variance": 0.5, "speech_variance": 0.6, "log_bias": 0, "log_deviation": 0.3,
         "other_log_mean": -0.1, "other_log_deviation": 0.2}
        for snr in (25, 15, 8)
    ]  # fmt: skip
    projection = {"weights": np.eye(DIMENSION)[:4].tolist(), "offsets": [0.0] * 4}
    prior = {"degrees": 10, "variance": 0.6, "mean_variance": 0.4}
    present = {"encoder": ENCODER, "bins": {"raw": bins, "whitened": bins}, "prior": prior, "projection": projection}
    used = calibrate(archive, present)
    remember(archive, 40, snrs_db=(30,))
    assert coverage(archive)["missing"] == []
    document = archive.call("calibrate_archive", ENCODER)["calibrate_archive"]
    clean, *noisy = document["bins"]["raw"]
    assert clean["call_variance"] == pytest.approx(CALL_VARIANCES[30.0], rel=0.15)
    assert noisy == bins[1:]
    assert document["bins"]["whitened"] == bins
    assert document["projection"]["offsets"] == projection["offsets"]
    assert document["provenance"]["projection_of"] == used
