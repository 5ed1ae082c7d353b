"""The functions called: in one transaction where they belong together, and what PostgreSQL refuses, by code."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from fixtures import databases
from fixtures.inputs import MODELS
from fixtures.records import Records
from fixtures.running import settings_for
from retrocare.database.client import Database
from retrocare.database.connection import connected
from retrocare.database.errors import translated
from retrocare.errors import BadRequest, Conflict, RetrocareError, Unprocessable

USUAL = np.array([1, 0, 0], np.float32)


@pytest.fixture
def opened(database: databases.Database) -> Iterator[tuple[Database, Records]]:
    with connected(settings_for(database)) as found:
        records = Records(database)
        records.register()
        yield found, records


def call(records: Records, **more: Any) -> dict[str, Any]:
    return {"encoder": "test-v1", "worker": "t", "lease_seconds": 60, "patient_id": records.patient(), **more}


def test_a_call_whose_check_cannot_be_opened_is_not_made_either(opened: tuple[Database, Records]) -> None:
    database, records = opened
    with pytest.raises(Unprocessable) as raised:
        database.open_recording(**call(records, encoder="unknown-v1"))
    assert raised.value.code == "a_check_is_for_a_model"
    assert records.one("select count(*) from public.call_logs") == 0


def test_the_channel_and_the_address_are_kept_with_the_call(opened: tuple[Database, Records]) -> None:
    database, records = opened
    claim = database.open_recording(**call(records, channel="left", recording_ref="https://example.org/x"))
    assert (claim.channel, claim.recording_ref) == ("left", "https://example.org/x")
    assert records.one("select recording_channel from public.call_logs") == "left"


@pytest.mark.parametrize(
    ("told", "found"), [("[[0.5, 2], [3, 4.25]]", ((0.5, 2.0), (3.0, 4.25))), ('[[1, 2], ["x"]]', ()), (None, ())]
)
def test_a_claim_brings_when_the_patient_spoke(
    opened: tuple[Database, Records], told: str | None, found: tuple[tuple[float, float], ...]
) -> None:
    database, records = opened
    patient_id = records.patient()
    call_log_id = records.call_log(patient_id)
    records.do("update public.call_logs set speech_intervals = %s::jsonb where id = %s", told, call_log_id)
    given = {**call(records), "patient_id": patient_id, "call_log_id": call_log_id}
    assert database.open_recording(**given).speech_intervals == found


def test_a_claim_brings_every_limit_of_the_policy(opened: tuple[Database, Records]) -> None:
    database, records = opened
    limits = {
        "minimum_speech_seconds": 1.5,
        "minimum_snr_db": 4,
        "maximum_clipped_share": 0.5,
        "maximum_call_seconds": 9,
    }
    records.set_policy(**limits)
    claim = database.open_recording(**call(records))
    assert vars(claim.limits) == vars(database.limits("test-v1")) == limits


def test_what_the_functions_refuse_has_a_code_of_its_own(opened: tuple[Database, Records]) -> None:
    database, records = opened
    claim = database.open_recording(**call(records))
    given: dict[str, Any] = {"audio_sha256": b"x" * 32, "speech_seconds": 10.0, "snr_db": None, "quality": {}}
    with pytest.raises(Unprocessable) as refused:
        database.complete_check(claim, embedding=2 * USUAL, **given)
    assert refused.value.code == "an_embedding_has_unit_length"
    with pytest.raises(BadRequest) as unreadable:
        database.complete_check(claim, embedding=np.nan * USUAL, **given)
    assert unreadable.value.code == "bad_value"
    records.do("update care.checks set lease_token = %s", uuid4())
    with pytest.raises(Conflict) as lost:
        database.complete_check(claim, embedding=USUAL, **given)
    assert lost.value.code == "lease_lost"


def test_a_refusal_that_nobody_foresaw_tells_its_number_and_no_value() -> None:
    with pytest.raises(RetrocareError) as raised, translated():
        raise psycopg.errors.RaiseException("Ana, born 1940")
    assert (raised.value.code, "Ana" in str(raised.value)) == ("database_error", False)


def test_the_recordings_bytes_are_what_a_duplicate_is_known_by() -> None:
    from retrocare.audio.speech import RecordingLimits
    from retrocare.checks.voiceprint import Voiceprint, make_voiceprint
    from retrocare.cli.demo import RECORDINGS
    from retrocare.encoders.loading import load_encoder

    content = (RECORDINGS / "01-enrol-monday.flac").read_bytes()
    encoder = load_encoder("ge2e", model_dir=MODELS, ecapa_dir=None).encoder
    made = make_voiceprint(content, None, RecordingLimits(3, 8, 0.01, 3600), encoder)
    assert isinstance(made, Voiceprint)
    assert made.audio_sha256 == hashlib.sha256(content).digest()
    assert 0.5 < made.quality["agreement"] < 1
    assert made.quality["windows"] + made.quality["outlier_windows"] > 1
