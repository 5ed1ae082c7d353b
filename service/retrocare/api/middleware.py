"""The middleware before the routes: it authenticates the caller and bounds the body before any of it is parsed."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

import anyio
from fastapi import FastAPI, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrocare.api import problems
from retrocare.api.auth import NEEDED_SCOPE, PUBLIC, ApiScope, Keys, actor_of
from retrocare.checks.service import Service
from retrocare.errors import RetrocareError
from retrocare.settings import Settings

MAXIMUM_JSON_BYTES = 1_000_000
KEY_LOOKUPS = 2  # at once, so that a flood of wrong keys takes no more connections, and no thread of the routes


class AccessMiddleware:
    """Refuse callers without a key of the route's scope, then bodies that are too large or too slow.

    Nothing of the body is read before the key is known. ``request.state.caller`` is then the key's name.
    """

    def __init__(self, app: ASGIApp, api: FastAPI, settings: Settings, service: Service) -> None:
        self.app, self.api, self.settings, self.keys = app, api, settings, Keys(service.database)
        self.lookups = anyio.CapacityLimiter(KEY_LOOKUPS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            route = _route(self.api, scope)
            if needed := needed_scope(route):
                caller = await actor_of(headers, needed, self.settings, self.keys, self.lookups)
                scope.setdefault("state", {})["caller"] = caller
            maximum_bytes = self._maximum_bytes(route, headers)
            if (told := _told_length(headers)) is not None and told > maximum_bytes:
                raise _too_large(maximum_bytes)
        except RetrocareError as refused:
            return await _unread(problems.answer(refused), headers)(scope, receive, send)
        except HTTPException as refused:
            return await _unread(problems.http_answer(refused), headers)(scope, receive, send)
        return await self.app(scope, _limited(receive, maximum_bytes, self.settings.request_seconds), send)

    def _maximum_bytes(self, route: BaseRoute | None, headers: Headers) -> int:
        is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return self.settings.maximum_recording_bytes if is_form and _takes_files(route) else MAXIMUM_JSON_BYTES


def needed_scope(route: BaseRoute | None) -> ApiScope | None:
    """Return the scope that a route needs; None: no key. A route that declares no scope is for operators."""
    if route is None or getattr(route, "path", "") in PUBLIC:
        return None
    declared: ApiScope | None = _declared(route).get(NEEDED_SCOPE)
    return declared or "admin"


def _route(api: FastAPI, scope: Scope) -> BaseRoute | None:
    """Return the route that will answer; None for an unknown path, or a method that the route lacks."""
    return next((route for route in api.routes if route.matches(scope)[0] is Match.FULL), None)


def _declared(route: BaseRoute | None) -> dict[str, Any]:
    return getattr(route, "openapi_extra", None) or {}


def _takes_files(route: BaseRoute | None) -> bool:
    return "multipart/form-data" in _declared(route).get("requestBody", {}).get("content", {})


def _told_length(headers: Headers) -> int | None:
    told = headers.get("content-length", "")
    return int(told) if told.isdecimal() else None


def _unread(answer: Response, headers: Headers) -> Response:
    """Close the connection after refusing a body that is large or of unknown length, instead of reading it."""
    if "transfer-encoding" in headers or (_told_length(headers) or 0) > MAXIMUM_JSON_BYTES:
        answer.headers["Connection"] = "close"
    return answer


def _too_large(maximum_bytes: int) -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {maximum_bytes:,} bytes")


def _limited(receive: Receive, maximum_bytes: int, maximum_seconds: float) -> Receive:
    """Receive the body, bounded in size and time."""
    received, is_complete = 0, False
    deadline = time.monotonic() + maximum_seconds

    async def limited() -> Message:
        nonlocal received, is_complete
        if is_complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), deadline - time.monotonic())
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The body did not come in time") from None
        received += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if received > maximum_bytes:
            raise _too_large(maximum_bytes)
        return message

    return limited
