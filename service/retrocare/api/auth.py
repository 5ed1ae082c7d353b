"""Authentication: callers show an API key, whose scopes say what they may do."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Literal, get_args

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers

from retrocare.database.client import Database, Row
from retrocare.errors import ConfigurationError, Forbidden, Unauthorized, Unavailable
from retrocare.settings import LOOPBACK, Settings

ApiScope = Literal["embed", "check", "read", "admin"]  # the SQL enum care.api_scope
SCOPES: tuple[ApiScope, ...] = get_args(ApiScope)

NEEDED_SCOPE = "x-scope"  # the extension of an OpenAPI operation that names the scope
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `retrocare key add`."},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, in a header of its own.",
    },
}
PUBLIC = frozenset({"/", "/health", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/docs/static"})


def check_binding(settings: Settings, has_keys: bool) -> None:
    """Refuse to listen beyond loopback without a key.

    Raises: ConfigurationError.
    """
    if settings.api_key is None and not has_keys and settings.host not in LOOPBACK:
        raise ConfigurationError(
            f"Without a key the service listens on loopback only, not on {settings.host}",
            hint="`retrocare key add`, or set RETROCARE_API_KEY to a long random text.",
        )


class Keys:
    """The API keys of the database, as far as authentication asks about them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ever_existed: bool | None = None

    def exist(self) -> bool:
        """Say whether there is a key that is not revoked."""
        return any(key["revoked_at"] is None for key in self._database.api_keys())

    def ever_existed(self) -> bool:
        """Say whether a key was ever made, revoked or not; repeat the last answer while the database is away."""
        if not self._ever_existed:
            try:
                self._ever_existed = bool(self._database.api_keys())
            except Unavailable:
                if self._ever_existed is None:
                    raise
        return self._ever_existed

    def use(self, key: str, scope: ApiScope) -> Row | None:
        """Return whose key this is and whether it has the scope; None for an unknown key."""
        # Looked up by its hash, so that the time of the comparison tells nothing about the key.
        return self._database.use_api_key(hash_of(key), scope)


async def actor_of(headers: Headers, scope: ApiScope, settings: Settings, keys: Keys, lookups: CapacityLimiter) -> str:
    """Return the name of the caller whose key has the scope, shown as ``Authorization: Bearer`` or ``X-API-Key``.

    RETROCARE_API_KEY has all scopes and no name. On loopback no key is asked for until the first one is made; revoking
    the last one does not lift that. A key that is added or revoked counts from the next request on.

    Raises: Unauthorized, Forbidden; Unavailable while the database is away.
    """
    shown = _shown(headers)
    if settings.api_key and hmac.compare_digest(shown.encode(), settings.api_key.get_secret_value().encode()):
        return ""
    if shown and (found := await to_thread.run_sync(keys.use, shown, scope, limiter=lookups)):
        if not found["is_allowed"]:
            raise Forbidden(f"This key does not have the scope {scope}", hint="`retrocare key add` makes one that has.")
        return str(found["name"])
    is_local = settings.api_key is None and settings.host in LOOPBACK
    if not shown and is_local and not await to_thread.run_sync(keys.ever_existed, limiter=lookups):
        return ""
    raise Unauthorized("The API key is missing or wrong", hint="Send it as Authorization: Bearer <key>.")


def guarded(scope: ApiScope) -> dict[str, Any]:
    """Declare, as ``openapi_extra`` of a route, the scope that a key needs, and how the key is sent."""
    return {NEEDED_SCOPE: scope, "security": [{name: []} for name in SECURITY_SCHEMES]}


def hash_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _shown(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or headers.get("x-api-key") or headers.get("apikey") or ""
