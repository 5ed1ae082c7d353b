"""The one way to the bytes of a recording: from a URL, a Supabase Storage object, or a file.

The Content-Type is ignored: the bytes themselves say what they are (`audio`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from retrocare.audio.decode import NamedChannel
from retrocare.errors import BadRequest, FetchFailed
from retrocare.observability import REFUSALS
from retrocare.recordings.addresses import PORTS, Url, parse_url
from retrocare.recordings.guarded_get import (
    INTERNET,
    FetchBudget,
    check_status,
    get,
    read,
    resolve,
    send_get,
    too_large,
)
from retrocare.settings import Settings

if TYPE_CHECKING:
    from supabase import Client

STORAGE = "storage:"

_NOT_IN_NAMES = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff%\\]")


@dataclass(frozen=True)
class Recording:
    """Where a recording is (a reference, a file, or bytes that were sent), and on which channel the patient is."""

    reference: str | None = None
    channel: NamedChannel | None = None
    content: bytes | Path = b""

    def read(self, settings: Settings) -> bytes:
        if self.reference is not None:
            return fetch(self.reference, settings)
        return self.content if isinstance(self.content, bytes) else read_file(self.content, settings)


def check_reference(reference: str) -> str:
    """Return the reference if it is well formed; whether it is allowed is decided by ``fetch``.

    Raises: BadRequest with bad_recording_reference.
    """
    try:
        _object(reference) if reference.startswith(STORAGE) else parse_url(reference)
    except FetchFailed as refused:
        raise BadRequest(str(refused), code="bad_recording_reference") from None
    return reference


def fetch(reference: str, settings: Settings) -> bytes:
    """Return the bytes behind a URL or ``storage:bucket/path``.

    Raises: FetchFailed, TooLarge; ``is_permanent`` says whether to try again.
    """
    try:
        return _fetch_object(reference, settings) if reference.startswith(STORAGE) else get(reference, settings)
    except FetchFailed as failure:
        if failure.refusal:
            REFUSALS.labels(failure.refusal).inc()
        raise


def read_file(path: Path, settings: Settings) -> bytes:
    """Return the bytes of a file.

    Raises: BadRequest where it cannot be read, TooLarge.
    """
    try:
        if path.stat().st_size > settings.maximum_recording_bytes:
            raise too_large(settings.maximum_recording_bytes)
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", code="unreadable_file") from None


def _object(reference: str) -> tuple[str, str]:
    """Return bucket and path. Raises: FetchFailed with refusal path."""
    bucket, _, path = reference.removeprefix(STORAGE).partition("/")
    is_plain = len(reference) <= 1024 and not _NOT_IN_NAMES.search(reference)
    if not is_plain or any(segment in ("", ".", "..") for segment in [bucket, *path.split("/")]):
        raise FetchFailed("A Storage reference is storage:bucket/path, plainly written", refusal="path")
    return bucket, path


def _fetch_object(reference: str, settings: Settings) -> bytes:
    """Read a private object through the Storage API, as the project's secret key may."""
    bucket, path = _object(reference)
    if bucket != settings.supabase_storage_bucket:
        hint = f"If they are: set SUPABASE_STORAGE_BUCKET={bucket}."
        raise FetchFailed(f"Recordings are not in the bucket {bucket}", hint, refusal="bucket")
    from storage3.exceptions import StorageApiError

    try:
        return storage_client(settings).storage.from_(bucket).download(path)
    except StorageApiError as error:
        check_status(int(error.status) if str(error.status).isdigit() else 502)
        raise FetchFailed("Storage refused the recording") from None


@lru_cache(maxsize=4)
def storage_client(settings: Settings) -> Client:
    """Return the project's client, one for all fetches with the same settings."""
    if not (settings.supabase_url and settings.supabase_secret_key):
        raise FetchFailed(
            "Storage is not configured", "Set SUPABASE_URL and SUPABASE_SECRET_KEY.", code="storage_not_configured"
        )
    from supabase import ClientOptions, create_client

    options = ClientOptions(httpx_client=httpx.Client(transport=_Guarded(settings), trust_env=False))
    return create_client(settings.supabase_url, settings.supabase_secret_key.get_secret_value(), options)


class _Guarded(httpx.BaseTransport):
    """Send the Supabase client's requests within a FetchBudget; SUPABASE_URL itself may be any host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        budget, url = FetchBudget(self._settings), request.url
        wanted = Url(url.scheme, url.host, url.port or PORTS[url.scheme], url.raw_path.decode())
        request.headers["Accept-Encoding"] = "identity"
        with send_get(wanted, request.headers.raw, resolve(url.host, budget, INTERNET), budget, INTERNET) as response:
            return httpx.Response(response.status, headers=response.headers, content=read(response, budget))
