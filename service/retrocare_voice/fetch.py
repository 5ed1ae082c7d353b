"""One way to get the bytes of a recording: a URL, a Supabase Storage object, or a file.

An error says what kind of thing went wrong, never the query string of a signed URL.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from retrocare_voice.audio import Channel
from retrocare_voice.errors import BadRequest, FetchFailed, TooLarge
from retrocare_voice.settings import Settings

STORAGE = "storage:"
MOST_REDIRECTS = 3
SILENCE_SECONDS = 10.0  # the longest wait for a connection, or for the next bytes


@dataclass(frozen=True)
class Recording:
    """Where a recording is (an address, a file, or the bytes that were sent), and where the patient is in it."""

    reference: str | None = None
    channel: Channel | None = None
    content: bytes | Path = b""

    def read(self, settings: Settings) -> bytes:
        if self.reference is not None:
            return fetch(self.reference, settings)
        return self.content if isinstance(self.content, bytes) else read_file(self.content, settings)


def check_reference(reference: str) -> str:
    """Return the reference if it is one that ``fetch`` takes.

    Raises: BadRequest with bad_recording_reference.
    """
    code = "bad_recording_reference"
    if reference.startswith(STORAGE):
        path = reference.removeprefix(STORAGE)
        if not path.strip("/") or ".." in path.split("/") or "\0" in path:
            raise BadRequest("A Storage reference is storage:bucket/path", code=code)
        return reference
    try:
        parts = urlsplit(reference)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and "\0" not in reference
        _ = parts.port
        httpx.URL(reference)
    except (ValueError, httpx.InvalidURL):
        known = False
    if not known:
        raise BadRequest("A recording is given as an http(s) URL or as storage:bucket/path", code=code)
    if parts.username or parts.password:
        raise BadRequest("A recording's URL may not carry a user name or password", code=code)
    return reference


def fetch(reference: str, settings: Settings) -> bytes:
    """Return the bytes behind a URL or ``storage:bucket/path``.

    Raises: FetchFailed, TooLarge, BadRequest; ``is_permanent`` says whether to try again.
    """
    check_reference(reference)
    if reference.startswith(STORAGE):
        return _fetch_object(reference.removeprefix(STORAGE), settings)
    return _fetch_url(reference, settings)


def read_file(path: Path, settings: Settings) -> bytes:
    """Return the bytes of a file.

    Raises: BadRequest where it cannot be read, TooLarge.
    """
    try:
        if path.stat().st_size > settings.maximum_recording_bytes:
            raise _too_large(settings)
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", code="unreadable_file") from None


def _fetch_url(url: str, settings: Settings) -> bytes:
    deadline = time.monotonic() + settings.fetch_seconds
    found = bytearray()
    client = httpx.Client(
        timeout=min(SILENCE_SECONDS, settings.fetch_seconds),
        follow_redirects=True,
        max_redirects=MOST_REDIRECTS,
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
    )
    try:
        with client, client.stream("GET", url) as response:
            _check_status(response.status_code)
            for chunk in response.iter_raw():
                found += chunk
                if len(found) > settings.maximum_recording_bytes:
                    raise _too_large(settings)
                if time.monotonic() > deadline:
                    raise FetchFailed(f"The recording did not arrive within {settings.fetch_seconds:g} s")
    except httpx.TooManyRedirects:
        raise FetchFailed(
            f"More than {MOST_REDIRECTS} redirects", code="recording_refused", is_permanent=True
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError, ValueError):
        raise FetchFailed("The URL cannot be followed", code="recording_refused", is_permanent=True) from None
    except httpx.HTTPError as error:
        raise FetchFailed(f"The recording's host did not answer ({type(error).__name__})") from None
    return bytes(found)


def _fetch_object(path: str, settings: Settings) -> bytes:
    """Read a private object through the Storage API, as the project's secret key may."""
    if not (settings.supabase_url and settings.supabase_secret_key):
        raise FetchFailed(
            "Storage is not configured", "Set SUPABASE_URL and SUPABASE_SECRET_KEY.", code="storage_not_configured"
        )
    from storage3.exceptions import StorageApiError
    from supabase import ClientOptions, create_client

    bucket, _, name = path.partition("/") if "/" in path else (settings.supabase_storage_bucket, "/", path)
    options = ClientOptions(storage_client_timeout=int(settings.fetch_seconds))
    client = create_client(settings.supabase_url, settings.supabase_secret_key.get_secret_value(), options)
    try:
        found = client.storage.from_(bucket).download(name)
    except StorageApiError as error:
        _check_status(int(error.status) if str(error.status).isdigit() else 502)
        raise FetchFailed("Storage refused the recording") from None
    except httpx.HTTPError as error:
        raise FetchFailed(f"Storage did not answer ({type(error).__name__})") from None
    if len(found) > settings.maximum_recording_bytes:
        raise _too_large(settings)
    return found


def _check_status(status: int) -> None:
    if status in (404, 410):
        raise FetchFailed("There is no recording at that address", code="recording_not_found", is_permanent=True)
    if status in (400, 401, 403):
        raise FetchFailed(f"The recording's host refused ({status})", code="recording_refused", is_permanent=True)
    if not 200 <= status < 300:
        raise FetchFailed(f"The recording's host answered {status}")


def _too_large(settings: Settings) -> TooLarge:
    limit = settings.maximum_recording_bytes
    return TooLarge(
        f"The recording is larger than {limit:,} bytes", "RETROCARE_MAXIMUM_RECORDING_BYTES is the limit.",
        code="recording_too_large",
    )  # fmt: skip
