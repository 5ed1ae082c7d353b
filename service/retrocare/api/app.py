"""The routes, for machines: edge functions, database triggers, integrators. People use the Data API."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError

from retrocare import __version__
from retrocare.api import metrics, payloads, problems
from retrocare.api.admission import Admission
from retrocare.api.auth import SECURITY_SCHEMES, guarded
from retrocare.api.middleware import AccessMiddleware
from retrocare.api.uploads import openapi, recordings_of
from retrocare.audio.speech import SPEECH_RATE
from retrocare.checks.budget import RequestBudget
from retrocare.checks.explanations import explain
from retrocare.checks.service import Service
from retrocare.checks.voiceprint import Voiceprint
from retrocare.errors import BadRequest, CheckEnd, NotAssessable, RetrocareError, Unprocessable
from retrocare.observability import Phases
from retrocare.recordings.fetch import Recording, check_reference
from retrocare.settings import Settings


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def admission_of(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


Shared = Annotated[Service, Depends(service_of)]
Admitted = Annotated[Admission, Depends(admission_of)]


def create_app(settings: Settings, service: Service) -> FastAPI:
    """Make the application for an opened service."""
    app = FastAPIOffline(  # serves Swagger UI from its own files: /docs needs no other host
        docs_url="/docs",
        redoc_url=None,
        static_url="/docs/static",
        title="RetroCare Voice",
        version=__version__,
        description="Recordings become voice embeddings; SQL functions judge them.",
        responses=problems.RESPONSES,
        generate_unique_id_function=lambda route: route.name,  # operation ids are the functions' names
    )
    app.state.settings, app.state.service, app.state.admission = settings, service, Admission(settings)
    problems.add_problem_answers(app)
    app.add_middleware(AccessMiddleware, api=app, settings=settings, service=service)
    app.add_middleware(
        CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
    _add_routes(app)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI leaves out: the keys, and nulls in examples."""
    components = app.openapi()["components"]
    components["securitySchemes"] = SECURITY_SCHEMES
    for name, schema in components["schemas"].items():
        if "examples" in schema:
            schema["examples"] = getattr(payloads, name).model_json_schema()["examples"]


def _add_routes(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def start() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/health", tags=["operations"])
    def health(service: Shared) -> payloads.Health:
        """Say that the process is alive, and which encoder it runs and why."""
        return payloads.Health(encoder=service.encoder, why=service.why)

    @app.get("/readyz", tags=["operations"])
    def ready(service: Shared) -> payloads.Readiness:
        """Say whether checks can be run: the model is warm, the database answers, the encoder is the active one."""
        service.check_ready()
        return payloads.Readiness(encoder=service.encoder)

    @app.post("/wake", tags=["operations"], status_code=HTTPStatus.ACCEPTED, openapi_extra=guarded("check"))
    def wake(service: Shared) -> payloads.Woken:
        """Have the worker look for checks now; otherwise it polls every few seconds."""
        if service.worker:
            service.worker.wake()
        return payloads.Woken(worker=service.worker is not None)

    @app.get(
        "/metrics",
        operation_id="metrics",
        tags=["operations"],
        response_class=PlainTextResponse,
        openapi_extra=guarded("admin"),
    )
    def prometheus(service: Shared) -> PlainTextResponse:
        """Return the metrics for Prometheus."""
        return PlainTextResponse(metrics.exposition(service), media_type=metrics.CONTENT_TYPE)

    @app.post("/embed", tags=["vectors"], openapi_extra=openapi(payloads.EmbedRequest) | guarded("embed"))
    async def embed(
        request: Request, response: Response, service: Shared, admission: Admitted
    ) -> payloads.EmbedResponse:
        """Turn one recording into a voice embedding; nothing is stored."""

        def job(recording: Recording, budget: RequestBudget) -> tuple[Voiceprint, Phases]:
            found, phases = service.embed(recording, budget)
            if isinstance(found, NotAssessable):
                limits = service.database.limits(service.encoder)
                raise Unprocessable(explain(found.reason, found.measures, limits), code=found.reason)
            return found, phases

        async with admission.admit() as budget:
            [recording] = await recordings_of(request, payloads.EmbedRequest, most=1)
            found, phases = await admission.run(request, budget, lambda: job(recording, budget))
        response.headers["Server-Timing"] = phases.server_timing
        return payloads.EmbedResponse(
            embedding=found.embedding.tolist(),
            snr=found.snr_db,
            sample_rate=SPEECH_RATE,
            encoder=found.encoder,
            speech_seconds=found.speech_seconds,
            quality=payloads.Quality(**found.quality),
        )

    @app.post("/compare", tags=["vectors"], openapi_extra=guarded("embed"))
    def compare(request: payloads.CompareRequest, service: Shared) -> payloads.CompareResponse:
        """Judge two given vectors by the SQL function that judges calls; nothing is stored."""
        judged = service.database.compare(request.baseline, request.current, request.snr, request.hour, request.encoder)
        return payloads.CompareResponse(
            rule="fixed",
            score=judged["score"],
            raw_similarity=judged["raw_similarity"],
            normalized=judged["score"],
            snr=request.snr,
            severity=judged["severity"],
            alert_type=judged["alert_type"],
        )

    @app.post(
        "/api/anomaly-check",
        tags=["patients"],
        responses={202: {"model": payloads.CheckResponse}},
        openapi_extra=guarded("check"),
    )
    async def check(
        body: payloads.CheckRequest,
        request: Request,
        response: Response,
        service: Shared,
        admission: Admitted,
        idempotency_key: payloads.IdempotencyKey = None,
    ) -> payloads.CheckResponse:
        """Judge one recording of a patient; 202 where another worker holds it.

        A recording that was judged before gives the first result, with duplicateOf. The same request with the same
        Idempotency-Key within 24 hours is about the same call; Idempotent-Replayed: true says that the answer was
        stored before.
        """
        recording = Recording(check_reference(body.audio_url), body.channel)
        caller = getattr(request.state, "caller", "")
        call: dict[str, Any] = {
            "call_log_id": body.call_log_id,
            "source": "api",
            "occurred_at": body.timestamp,
            "caller": caller,
            "idempotency_key": idempotency_key,
            "request_sha256": payloads.request_sha256(caller, "POST /api/anomaly-check", body),
        }

        def judge(budget: RequestBudget) -> tuple[payloads.CheckResponse, Phases]:
            row, phases = service.judge(recording, body.patient_id, budget, **call)
            return payloads.CheckResponse.of(row, service.explanation(row)), phases

        async with admission.admit() as budget:
            found, phases = await admission.run(request, budget, lambda: judge(budget))
        response.headers["Server-Timing"] = phases.server_timing
        if idempotency_key and not phases.milliseconds:  # the answer was stored before
            response.headers["Idempotent-Replayed"] = "true"
        if found.outcome in payloads.UNFINISHED:
            response.status_code = HTTPStatus.ACCEPTED
        return found

    @app.post(
        "/api/patients/{patient_id}/baseline",
        tags=["patients"],
        openapi_extra=openapi(payloads.EnrolRequest) | guarded("check"),
    )
    async def enroll(
        patient_id: uuid.UUID, request: Request, service: Shared, admission: Admitted
    ) -> payloads.EnrolResponse:
        """Enrol a patient from one or more recordings, together one enrolment."""
        enrolment_id = uuid.uuid4()
        call: dict[str, Any] = {"source": "onboarding", "enrolment_id": enrolment_id}

        def judge_all(recordings: list[Recording], budget: RequestBudget) -> list[payloads.CheckResponse]:
            results = []
            for recording in recordings:
                try:
                    row, _ = service.judge(recording, patient_id, budget, **call)
                except RetrocareError as failure:
                    # What says nothing about this recording holds for the others as well: the caller tries again.
                    if failure.result is None or failure.ends_check is not CheckEnd.FAILED:
                        raise
                    row = failure.result  # the others are not lost with this one
                results.append(payloads.CheckResponse.of(row, service.explanation(row)))
            return results

        async with admission.admit() as budget:
            recordings = await recordings_of(request, payloads.EnrolRequest, most=20)
            results = await admission.run(request, budget, lambda: judge_all(recordings, budget))
        return payloads.EnrolResponse(enrolment_id=enrolment_id, results=results)

    @app.get("/api/anomaly-logs/{patient_id}", tags=["patients"], openapi_extra=guarded("read"))
    def patient_logs(patient_id: uuid.UUID, service: Shared) -> payloads.AnomalyLogs:
        """Return all logs of one patient, newest first."""
        return payloads.AnomalyLogs.model_validate({"logs": service.database.anomaly_logs([patient_id], None)})

    @app.get("/api/anomaly-logs", tags=["patients"], openapi_extra=guarded("read"))
    def logs(
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
