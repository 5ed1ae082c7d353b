"""Errors become responses: application/problem+json (RFC 9457) with a stable code, in one place."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from retrocare.api.payloads import Problem
from retrocare.errors import RetrocareError
from retrocare.observability import log

CODES = {404: "not_found", 405: "method_not_allowed", 408: "too_slow", 413: "too_large"}

_ANSWER: dict[str, Any] = {"content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {**_ANSWER, "description": "The request cannot be answered as it is."},
    "5XX": {**_ANSWER, "description": "The service, or what it needs, is not there."},
}


def problem(status: int, code: str, detail: str, hint: str = "", retry_after: int | None = None) -> JSONResponse:
    """Make the response that says what was wrong and what to do."""
    title = HTTPStatus(status).phrase
    body = Problem(error=detail, title=title, status=status, detail=detail, code=code, hint=hint or None)
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    headers |= {"Retry-After": str(retry_after)} if retry_after else {}
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def answer(error: RetrocareError) -> JSONResponse:
    return problem(error.status, error.code, str(error), error.hint, error.retry_after_seconds)


def http_answer(error: HTTPException) -> JSONResponse:
    answer = problem(error.status_code, CODES.get(error.status_code, "bad_request"), str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


def add_problem_answers(app: FastAPI) -> None:
    """Register handlers that answer every error of a route with a problem."""

    @app.exception_handler(RetrocareError)
    def ours(request: Request, error: RetrocareError) -> Response:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("failed", extra={"fields": {"path": request.url.path, "code": error.code}})
        return answer(error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        # The input is not repeated: it may be a vector, or the URL of a recording.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
        return problem(HTTPStatus.BAD_REQUEST, "bad_request", f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return http_answer(error)

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: ClientDisconnect) -> Response:
        return problem(HTTPStatus.BAD_REQUEST, "bad_request", "The caller went away before the body was complete.")

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        log.error("failed", exc_info=error, extra={"fields": {"path": request.url.path}})
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "The service failed; its log says why.")
