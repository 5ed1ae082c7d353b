"""Errors become answers: application/problem+json with a stable code, in one place."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrocare_voice.errors import RetrocareError
from retrocare_voice.payloads import Problem

CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}

log = logging.getLogger("retrocare")

_ANSWER: dict[str, Any] = {"content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {**_ANSWER, "description": "The request cannot be answered as it is."},
    "5XX": {**_ANSWER, "description": "The service, or what it needs, is not there."},
}


def problem(status: int, code: str, detail: str, hint: str = "") -> JSONResponse:
    """Make the answer that says what was wrong and what to do."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, hint=hint or None)
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def add_problem_answers(app: FastAPI) -> None:
    """Answer every error of a route as a problem."""

    @app.exception_handler(RetrocareError)
    def ours(request: Request, error: RetrocareError) -> Response:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("%s %s: %s (%s)", request.method, request.url.path, error, error.code)
        return problem(error.status, error.code, str(error), error.hint)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it may be a vector, or the address of a recording.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
        return problem(HTTPStatus.BAD_REQUEST, "bad_request", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        code = CODES.get(error.status_code, "bad_request")
        answer = problem(error.status_code, code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "The service failed; its log says why.")


class BodyLimit:
    """Refuse bodies that are larger than the largest recording, without reading them to their end."""

    def __init__(self, app: ASGIApp, maximum_bytes: int) -> None:
        self.app = app
        self.maximum_bytes = maximum_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.maximum_bytes:
                raise HTTPException(413, f"The body is larger than {self.maximum_bytes:,} bytes")
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)
