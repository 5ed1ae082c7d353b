"""Who may call: machines that show the key."""

from __future__ import annotations

import hmac

from fastapi import Request

from retrocare_voice.errors import ConfigurationError, Unauthorized
from retrocare_voice.settings import LOOPBACK, Settings


def check_binding(settings: Settings) -> None:
    """Refuse to be reachable by others without a key.

    Raises: ConfigurationError.
    """
    if settings.api_key is None and settings.host not in LOOPBACK:
        raise ConfigurationError(
            f"Without RETROCARE_API_KEY the service listens on loopback only, not on {settings.host}",
            hint="Set RETROCARE_API_KEY to a long random text, or leave RETROCARE_HOST at 127.0.0.1.",
        )


def require_key(request: Request) -> None:
    """Let a caller pass who shows the key as ``Authorization: Bearer``, ``X-API-Key`` or ``apikey``.

    Raises: Unauthorized.
    """
    settings: Settings = request.app.state.settings
    if settings.api_key is None:
        return
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    shown = bearer or request.headers.get("x-api-key") or request.headers.get("apikey") or ""
    if not hmac.compare_digest(shown.encode(), settings.api_key.get_secret_value().encode()):
        raise Unauthorized("The API key is missing or wrong", hint="Send it as Authorization: Bearer <key>.")
