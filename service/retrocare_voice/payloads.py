"""What goes into the routes and comes out of them, as OpenAPI shows it."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Header
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from retrocare_voice.audio import NamedChannel

Finite = Annotated[float, Field(allow_inf_nan=False)]
VectorIn = Annotated[list[Finite], Field(min_length=1, max_length=16_000)]
PatientIds: TypeAdapter[list[UUID]] = TypeAdapter(list[UUID])


# The SQL enums check_state, check_reason, anomaly_severity and alert_type.
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


class Camel(BaseModel):
    """Fields in camelCase on the wire, as the callers of these routes are coded."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457), with what callers of the earlier service read."""

    success: Literal[False] = False
    error: str = Field(description="The same as detail.")
    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable: programs may rely on it.")
    hint: str | None = None


class EmbedRequest(BaseModel):
    audio_url: str = Field(description="http(s) URL, or storage:bucket/path")
    sample_rate: int | None = Field(None, description="Accepted and ignored: the recording says it itself.")
    channel: NamedChannel | None = None


class Quality(BaseModel):
    windows: int
    agreement: float = Field(description="Mean cosine of the windows to the embedding, 1 where all agree.")
    clipped_share: float
    channel: NamedChannel


class EmbedResponse(BaseModel):
    embedding: list[float] = Field(description="Unit vector.")
    snr: float | None = Field(description="dB; null: not known.")
    sample_rate: int = Field(description="Of the audio that was encoded, Hz.")
    encoder: str
    speech_seconds: float
    quality: Quality


class CompareRequest(BaseModel):
    baseline: VectorIn
    current: VectorIn
    snr: Finite | None = Field(None, description="dB; null: not known.")
    hour: float | None = Field(None, ge=0, lt=24, description="The hour on the patient's clock.")
    encoder: str | None = Field(None, description="Whose policy; the active one's by default.")


class CompareResponse(BaseModel):
    score: float
    raw_similarity: float
    normalized: float
    snr: float | None
    severity: Severity
    alert_type: AlertType | None


class CheckRequest(Camel):
    patient_id: UUID
    audio_url: str = Field(description="http(s) URL, or storage:bucket/path")
    call_log_id: UUID | None = Field(None, description="Without it, a call is made for the recording.")
    channel: NamedChannel | None = Field(None, description="Where the patient is; needed for stereo.")
    timestamp: AwareDatetime | None = Field(None, description="When the call began; now by default.")


class CheckResponse(Camel):
    success: bool = Field(description="The recording reached a judged end, not_assessable included.")
    error: str | None = Field(description="A sentence where success is false.")
    outcome: CheckState
    reason: CheckReason | None
    explanation: str | None = Field(description="The reason in a sentence, with what was measured and what is needed.")
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
    added_to_baseline: bool

    @classmethod
    def of(cls, result: dict[str, Any], explanation: str | None = None) -> CheckResponse:
        """Read a row of voice.check_result."""
        state = result["state"]
        error = UNFINISHED.get(state) or (explanation if state == "dead" else None)
        fields = {name: value for name, value in result.items() if name != "state"}
        return cls(success=error is None, error=error, outcome=state, explanation=explanation, **fields)


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
    """Return what tells a repeated request from another one: the hash of who asks for what, spelt in one way."""
    return hashlib.sha256("\n".join((caller, route, body.model_dump_json())).encode()).digest()


class EnrolRequest(Camel):
    audio_urls: list[str] = Field(min_length=1, max_length=20)
    channel: NamedChannel | None = None


class EnrolResponse(Camel):
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
    logs: list[AnomalyLog]


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    service: Literal["anomaly-detection"] = "anomaly-detection"
    encoder: str
    why: str = Field(description="Why it is this encoder.")


class Readiness(BaseModel):
    status: Literal["ready"] = "ready"
    encoder: str


class Woken(BaseModel):
    worker: bool = Field(description="Whether a worker runs in this process.")
