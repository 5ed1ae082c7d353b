"""The routes. For machines: edge functions, triggers, operators. People use the Data API."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from retrocare_voice import __version__, payloads, problems
from retrocare_voice.auth import require_key
from retrocare_voice.errors import BadRequest, NotAssessable, RetrocareError, Unprocessable
from retrocare_voice.fetch import Recording, check_reference
from retrocare_voice.pipeline import voiceprint
from retrocare_voice.recordings import openapi, recordings_of
from retrocare_voice.service import Service
from retrocare_voice.settings import Settings
from retrocare_voice.speech import SPEECH_RATE


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(service_of)]


def create_app(settings: Settings, service: Service) -> FastAPI:
    """Make the application around an opened service."""
    app = FastAPI(
        title="RetroCare Voice",
        version=__version__,
        description="Recordings become voice embeddings; SQL functions judge them.",
        responses=problems.RESPONSES,
    )
    app.state.settings, app.state.service = settings, service
    problems.add_problem_answers(app)
    app.add_middleware(problems.BodyLimit, maximum_bytes=settings.maximum_recording_bytes)
    app.add_middleware(
        CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
    _add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    guarded: dict[str, Any] = {"dependencies": [Depends(require_key)]}

    @app.get("/health", tags=["operations"])
    def health(service: Shared) -> payloads.Health:
        """Say that the process is alive, and which encoder it runs and why."""
        return payloads.Health(encoder=service.encoder, why=service.why)

    @app.get("/readyz", tags=["operations"])
    def readyz(service: Shared) -> payloads.Readiness:
        """Say whether work can be taken: the model is warm, the database answers, the encoder is the active one."""
        service.check_ready()
        return payloads.Readiness(encoder=service.encoder)

    @app.post("/embed", tags=["vectors"], openapi_extra=openapi(payloads.EmbedRequest), **guarded)
    async def embed(request: Request, service: Shared) -> payloads.EmbedResponse:
        """Turn one recording into a voice embedding; nothing is stored."""
        [recording] = await recordings_of(request, payloads.EmbedRequest, most=1)

        def work() -> payloads.EmbedResponse:
            limits = service.database.limits(service.encoder)
            found = voiceprint(recording.read(service.settings), recording.channel, limits, service.inference)
            if isinstance(found, NotAssessable):
                raise Unprocessable("The recording cannot be judged", hint=str(dict(found.measures)), code=found.reason)
            return payloads.EmbedResponse(
                embedding=found.embedding.tolist(),
                snr=found.snr_db,
                sample_rate=SPEECH_RATE,
                encoder=found.encoder,
                speech_seconds=found.speech_seconds,
                quality=payloads.Quality(**found.quality),
            )

        return await run_in_threadpool(work)

    @app.post("/compare", tags=["vectors"], **guarded)
    def compare(request: payloads.CompareRequest, service: Shared) -> payloads.CompareResponse:
        """Judge two given vectors by the SQL function that judges calls; nothing is stored."""
        judged = service.database.compare(request.baseline, request.current, request.snr, request.hour, request.encoder)
        return payloads.CompareResponse(
            score=judged["score"],
            raw_similarity=judged["raw_similarity"],
            normalized=judged["score"],
            snr=request.snr,
            severity=judged["severity"],
            alert_type=judged["alert_type"],
        )

    @app.post("/api/anomaly-check", tags=["patients"], responses={202: {"model": payloads.CheckResponse}}, **guarded)
    def anomaly_check(request: payloads.CheckRequest, response: Response, service: Shared) -> payloads.CheckResponse:
        """Judge one recording of a patient; 202 where another worker holds it, or it will be tried again."""
        recording = Recording(check_reference(request.audio_url), request.channel)
        result = payloads.CheckResponse.of(
            service.judge(
                recording,
                request.patient_id,
                call_log_id=request.call_log_id,
                source="api",
                occurred_at=request.timestamp,
            )
        )
        if result.outcome in ("queued", "leased"):
            response.status_code = HTTPStatus.ACCEPTED
        return result

    @app.post(
        "/api/patients/{patient_id}/baseline",
        tags=["patients"],
        openapi_extra=openapi(payloads.EnrolRequest),
        **guarded,
    )
    async def enrol(patient_id: uuid.UUID, request: Request, service: Shared) -> payloads.EnrolResponse:
        """Enrol a patient from one or more recordings, together one enrolment."""
        recordings = await recordings_of(request, payloads.EnrolRequest, most=20)
        enrolment_id = uuid.uuid4()

        def work() -> payloads.EnrolResponse:
            results = []
            for recording in recordings:
                try:
                    results.append(service.judge(recording, patient_id, source="onboarding", enrolment_id=enrolment_id))
                except RetrocareError as failure:
                    if failure.result is None:
                        raise
                    results.append(failure.result)  # the others are not lost with this one
            return payloads.EnrolResponse(
                enrolment_id=enrolment_id, results=[payloads.CheckResponse.of(result) for result in results]
            )

        return await run_in_threadpool(work)

    @app.get("/api/anomaly-logs/{patient_id}", tags=["patients"], **guarded)
    def logs_of_one(patient_id: uuid.UUID, service: Shared) -> payloads.AnomalyLogs:
        """Return all logs of one patient, newest first."""
        return payloads.AnomalyLogs.model_validate({"logs": service.database.anomaly_logs([patient_id], None)})

    @app.get("/api/anomaly-logs", tags=["patients"], **guarded)
    def logs_of_many(
        service: Shared,
        patient_ids: Annotated[list[str], Query(alias="patientIds", max_length=1000)],
        days: Annotated[int, Query(ge=1, le=36500)] = 7,
    ) -> payloads.AnomalyLogs:
        """Return the recent logs of several patients, newest first; ids are repeated or separated by commas."""
        try:
            ids = payloads.PatientIds.validate_python([i for text in patient_ids for i in text.split(",") if i])
        except ValidationError:
            raise BadRequest("patientIds holds what is no id") from None
        since = datetime.now(UTC) - timedelta(days=days)
        return payloads.AnomalyLogs.model_validate({"logs": service.database.anomaly_logs(ids, since)})
