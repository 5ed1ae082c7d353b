"""What goes into the routes and comes out of them, as OpenAPI shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from retrocare_voice.audio import NamedChannel

Finite = Annotated[float, Field(allow_inf_nan=False)]
VectorIn = Annotated[list[Finite], Field(min_length=1, max_length=16_000)]
PatientIds: TypeAdapter[list[UUID]] = TypeAdapter(list[UUID])


class Camel(BaseModel):
    """Fields in camelCase on the wire, as the callers of these routes are coded."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Problem(BaseModel):
    """An error, as application/problem+json (RFC 9457)."""

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
    severity: Literal["low", "medium", "high", "critical"]
    alert_type: Literal["warning", "emergency"] | None


class CheckRequest(Camel):
    patient_id: UUID
    audio_url: str = Field(description="http(s) URL, or storage:bucket/path")
    call_log_id: UUID | None = Field(None, description="Without it, a call is made for the recording.")
    channel: NamedChannel | None = Field(None, description="Where the patient is; needed for stereo.")
    timestamp: AwareDatetime | None = Field(None, description="When the call began; now by default.")


class CheckResponse(Camel):
    success: bool = Field(description="The recording reached a judged end, not_assessable included.")
    outcome: str = Field(description="The check's state.")
    reason: str | None
    call_log_id: UUID
    log_id: UUID | None
    anomaly_score: float | None
    raw_similarity: float | None
    normalized_score: float | None
    snr: float | None
    severity: str | None
    alert_type: str | None
    added_to_baseline: bool

    @classmethod
    def of(cls, result: dict[str, Any]) -> CheckResponse:
        """Read a row of voice.check_result."""
        ended = result["state"] in ("scored", "enrolled", "held", "embedded", "not_assessable", "skipped")
        return cls(success=ended, outcome=result["state"], **{k: v for k, v in result.items() if k != "state"})


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
    severity: str
    alert_type: str | None
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
