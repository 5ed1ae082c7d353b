"""Who may call: machines that show a key, each for what its scopes allow."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Literal

from fastapi import Request

from retrocare_voice.errors import ConfigurationError, Forbidden, Unauthorized
from retrocare_voice.service import Service
from retrocare_voice.settings import LOOPBACK, Settings

Scope = Literal["embed", "check", "read", "admin"]


def check_binding(settings: Settings, has_keys: bool) -> None:
    """Refuse to be reachable by others without a key.

    Raises: ConfigurationError.
    """
    if settings.api_key is None and not has_keys and settings.host not in LOOPBACK:
        raise ConfigurationError(
            f"Without a key the service listens on loopback only, not on {settings.host}",
            hint="`retrocare key add`, or set RETROCARE_API_KEY to a long random text.",
        )


def require(scope: Scope) -> Callable[[Request], None]:
    """Let a caller pass whose key has the scope, shown as ``Authorization: Bearer``, ``X-API-Key`` or ``apikey``.

    RETROCARE_API_KEY has all scopes. On loopback no key is asked for until the first one is made; revoking the last one
    opens nothing. A key that is added or revoked counts from the next request on.
    """

    def check(request: Request) -> None:
        settings: Settings = request.app.state.settings
        service: Service = request.app.state.service
        shown = _shown(request)
        if settings.api_key and hmac.compare_digest(shown.encode(), settings.api_key.get_secret_value().encode()):
            return
        is_local = settings.api_key is None and settings.host in LOOPBACK
        if not shown and is_local and not service.ever_had_keys():
            return
        # Known by its hash: what is compared in the database says nothing of the key.
        found = service.database.use_api_key(hash_of(shown), scope) if shown else None
        if found is None:
            raise Unauthorized("The API key is missing or wrong", hint="Send it as Authorization: Bearer <key>.")
        if not found["is_allowed"]:
            raise Forbidden(f"This key does not have the scope {scope}", hint="`retrocare key add` makes one that has.")

    return check


def hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _shown(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or request.headers.get("x-api-key") or request.headers.get("apikey") or ""
