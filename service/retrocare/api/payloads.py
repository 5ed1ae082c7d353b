"""The bodies of requests and responses, as OpenAPI shows them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Header
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from retrocare.audio.decode import NamedChannel

Finite = Annotated[float, Field(allow_inf_nan=False)]
VectorIn = Annotated[list[Finite], Field(min_length=1, max_length=16_000)]
PatientIds: TypeAdapter[list[UUID]] = TypeAdapter(list[UUID])


# The SQL enums check_state, check_reason, anomaly_severity, alert_type, scoring_rule and voice_verdict.
CheckState = Literal[
    "queued", "leased", "scored", "enrolled", "held", "embedded", "not_assessable", "skipped", "dead"
]  # fmt: skip
CheckReason = Literal[
    "no_speech", "too_little_speech", "too_noisy", "clipped", "ambiguous_channel", "undecodable", "too_long",
    "sick_without_baseline", "sick_at_enrolment",
    "no_consent", "duplicate_recording", "voicemail", "not_answered", "nobody_spoke", "call_failed",
    "ended_reason_unknown",
    "recording_unavailable", "recording_expired", "processing_failed", "attempts_exhausted", "upload_lost",
]  # fmt: skip
Severity = Literal["low", "medium", "high", "critical"]
AlertType = Literal["warning", "emergency"]
ScoringRule = Literal["fixed", "calibrated"]
Verdict = Literal["as_usual", "changed", "another_voice"]


def example(**values: Any) -> ConfigDict:
    """Return a model_config with an example for OpenAPI."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class Camel(BaseModel):
    """A body with fields in camelCase, as the callers of these routes expect."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457), with the fields that callers of the earlier service read."""

    model_config = example(
        success=False,
        error="No patient 7d8f0a52-6a0e-4f0c-8d0c-3f3c7d0e9b11",
        type="about:blank",
        title="Not Found",
        status=404,
        detail="No patient 7d8f0a52-6a0e-4f0c-8d0c-3f3c7d0e9b11",
        code="unknown_patient",
        hint=None,
    )

    success: Literal[False] = False
    error: str = Field(description="The same as detail.")
    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable: programs may rely on it.")
    hint: str | None = None


class EmbedRequest(BaseModel):
    model_config = example(audio_url="https://recordings.example.org/call.wav", channel="customer")

    audio_url: str = Field(description="http(s) URL, or storage:bucket/path")
    sample_rate: int | None = Field(None, description="Accepted and ignored: the recording says it itself.")
    channel: NamedChannel | None = None


class Quality(BaseModel):
    windows: int
    agreement: float = Field(description="Mean cosine of the windows to the embedding, 1 where all agree.")
    clipped_share: float
    channel: NamedChannel


class EmbedResponse(BaseModel):
    model_config = example(
        embedding=[0.6, 0.8, 0.0],
        snr=24.1,
        sample_rate=16000,
        encoder="ge2e-v1",
        speech_seconds=21.4,
        quality={"windows": 13, "agreement": 0.93, "clipped_share": 0.0, "channel": "mono"},
    )

    embedding: list[float] = Field(description="Unit vector.")
    snr: float | None = Field(description="dB; null: not known.")
    sample_rate: int = Field(description="Of the audio that was encoded, Hz.")
    encoder: str
    speech_seconds: float
    quality: Quality


class CompareRequest(BaseModel):
    model_config = example(baseline=[0.6, 0.8, 0.0], current=[0.8, 0.6, 0.0], snr=12.0, hour=7.5, encoder="ge2e-v1")

    baseline: VectorIn
    current: VectorIn
    snr: Finite | None = Field(None, description="dB; null: not known.")
    hour: float | None = Field(None, ge=0, lt=24, description="The hour on the patient's clock.")
    encoder: str | None = Field(None, description="Whose policy; the active one's by default.")


class CompareResponse(BaseModel):
    model_config = example(
        rule="fixed",
        score=0.31,
        raw_similarity=0.62,
        normalized=0.31,
        snr=12.0,
        severity="medium",
        alert_type="warning",
    )

    rule: Literal["fixed"] = Field(description="Two vectors alone are always compared by the fixed rule.")
    score: float
    raw_similarity: float
    normalized: float
    snr: float | None
    severity: Severity
    alert_type: AlertType | None


class CheckRequest(Camel):
    model_config = example(
        patientId="7d8f0a52-6a0e-4f0c-8d0c-3f3c7d0e9b11",
        audioUrl="https://recordings.example.org/call.wav",
        callLogId=None,
        channel="customer",
        timestamp="2026-03-02T09:30:00+01:00",
    )

    patient_id: UUID
    audio_url: str = Field(description="http(s) URL, or storage:bucket/path")
    call_log_id: UUID | None = Field(None, description="Without it, a call is made for the recording.")
    channel: NamedChannel | None = Field(None, description="Where the patient is; needed for stereo.")
    timestamp: AwareDatetime | None = Field(None, description="When the call began; now by default.")


class CheckResponse(Camel):
    model_config = example(
        success=True,
        error=None,
        outcome="scored",
        reason=None,
        explanation=None,
        callLogId="01a1ff5c-2faa-7406-b309-14d5605ef976",
        duplicateOf=None,
        logId="5b1f1d0a-54f5-4a5b-9a55-0a4f5a1c7c33",
        anomalyScore=0.456,
        rawSimilarity=0.544,
        normalizedScore=0.456,
        snr=33.8,
        severity="high",
        alertType="emergency",
        rule="calibrated",
        verdict="changed",
        isProvisional=False,
        addedToBaseline=False,
    )

    success: bool = Field(description="The recording reached a judged end, not_assessable included.")
    error: str | None = Field(description="A sentence where success is false.")
    outcome: CheckState
    reason: CheckReason | None
    explanation: str | None = Field(
        description="The reason in a sentence, with what was measured and what is needed; or why the score is not low."
    )
    call_log_id: UUID
    duplicate_of: UUID | None = Field(
        description="The call whose recording has the same bytes: its outcome, score and logId are given here."
    )
    log_id: UUID | None
    anomaly_score: float | None
    raw_similarity: float | None
    normalized_score: float | None
    snr: float | None
    severity: Severity | None
    alert_type: AlertType | None
    rule: ScoringRule | None = Field(description="How the score was computed.")
    verdict: Verdict | None
    is_provisional: bool | None = Field(description="The baseline has too few samples; nobody is told of the score.")
    added_to_baseline: bool

    @classmethod
    def of(cls, result: dict[str, Any], explanation: str | None = None) -> CheckResponse:
        """Read a row of voice.check_result."""
        state = result["state"]
        error = UNFINISHED.get(state) or (explanation if state == "dead" else None)
        fields = {name: value for name, value in result.items() if name not in ("state", "explanation")}
        told = explanation or result["explanation"]
        return cls(success=error is None, error=error, outcome=state, explanation=told, **fields)


UNFINISHED = {
    "queued": "The recording is not judged yet. Send the same request again later.",
    "leased": "The recording is being judged. Send the same request again in a few seconds.",
}


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Visible ASCII, one for each request and the same to repeat it. Kept for 24 hours.",
    ),
]


def request_sha256(caller: str, route: str, body: BaseModel) -> bytes:
    """Return the hash of caller, route and body, which tells a repeated request from a different one."""
    return hashlib.sha256("\n".join((caller, route, body.model_dump_json())).encode()).digest()


class EnrolRequest(Camel):
    model_config = example(
        audioUrls=["https://recordings.example.org/monday.wav", "storage:voice-recordings/ana/tuesday.wav"],
        channel=None,
    )

    audio_urls: list[str] = Field(min_length=1, max_length=20)
    channel: NamedChannel | None = None


class EnrolResponse(Camel):
    model_config = example(
        enrolmentId="c0a8f7a2-0d7e-4f43-8f35-7b3c1f0d2e44",
        results=[
            {
                "success": True,
                "error": None,
                "outcome": "enrolled",
                "reason": None,
                "explanation": None,
                "callLogId": "01a1ff5c-2faa-7406-b309-14d5605ef976",
                "duplicateOf": None,
                "logId": None,
                "anomalyScore": None,
                "rawSimilarity": None,
                "normalizedScore": None,
                "snr": 39.3,
                "severity": None,
                "alertType": None,
                "rule": None,
                "verdict": None,
                "isProvisional": None,
                "addedToBaseline": True,
            }
        ],
    )

    enrolment_id: UUID
    results: list[CheckResponse]


class AnomalyLog(BaseModel):
    """A row of public.voice_anomaly_logs."""

    model_config = ConfigDict(extra="allow")

    id: UUID
    patient_id: UUID
    call_log_id: UUID | None
    timestamp: datetime
    anomaly_score: float
    raw_similarity: float
    normalized_score: float
    snr: float | None
    severity: Severity
    alert_type: AlertType | None
    alert_sent: bool
    notes: str | None


class AnomalyLogs(BaseModel):
    model_config = example(
        logs=[
            {
                "id": "5b1f1d0a-54f5-4a5b-9a55-0a4f5a1c7c33",
                "patient_id": "7d8f0a52-6a0e-4f0c-8d0c-3f3c7d0e9b11",
                "call_log_id": "01a1ff5c-2faa-7406-b309-14d5605ef976",
                "timestamp": "2026-03-02T09:30:00Z",
                "anomaly_score": 0.456,
                "raw_similarity": 0.544,
                "normalized_score": 0.456,
                "snr": 33.8,
                "severity": "high",
                "alert_type": "emergency",
                "alert_sent": True,
                "notes": None,
            }
        ]
    )

    logs: list[AnomalyLog]


class Health(BaseModel):
    model_config = example(status="ok", service="anomaly-detection", encoder="ge2e-v1", why="The encoder is ge2e-v1.")

    status: Literal["ok"] = "ok"
    service: Literal["anomaly-detection"] = "anomaly-detection"
    encoder: str
    why: str = Field(description="Why it is this encoder.")


class Readiness(BaseModel):
    model_config = example(status="ready", encoder="ge2e-v1")

    status: Literal["ready"] = "ready"
    encoder: str


class Woken(BaseModel):
    model_config = example(worker=True)

    worker: bool = Field(description="Whether a worker runs in this process.")
