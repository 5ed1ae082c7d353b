"""The recordings of a request: URLs in JSON, or files in a form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from retrocare.audio.decode import NAMED_CHANNELS, NamedChannel
from retrocare.errors import BadRequest
from retrocare.recordings.fetch import Recording, check_reference

CHANNEL: TypeAdapter[NamedChannel | None] = TypeAdapter(NamedChannel | None)


async def recordings_of(request: Request, body: type[BaseModel], most: int) -> list[Recording]:
    """Read the recordings of a request: ``audio_url`` or ``audio_urls`` of the JSON body, or the files of a form.

    Raises: RequestValidationError, BadRequest.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _uploaded(request, most)
    try:
        given = body.model_validate_json(await request.body())
    except ValidationError as invalid:
        found = [{**error, "loc": ("body", *error["loc"])} for error in invalid.errors()]
        raise RequestValidationError(found) from None
    urls: Sequence[str] = getattr(given, "audio_urls", None) or [getattr(given, "audio_url", "")]
    return [Recording(check_reference(url), getattr(given, "channel", None)) for url in urls]


async def _uploaded(request: Request, most: int) -> list[Recording]:
    async with request.form(max_files=most, max_fields=20) as form:
        try:
            channel = CHANNEL.validate_python(form.get("channel") or None)
        except ValidationError:
            raise BadRequest(f"channel is one of {', '.join(NAMED_CHANNELS)}") from None
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise BadRequest("The form holds no file", hint="Send each recording as a file.")
        return [Recording(None, channel, await part.read()) for part in files]


def openapi(body: type[BaseModel]) -> dict[str, Any]:
    """Describe a request body that is JSON or a form with files."""
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "channel": {"type": "string", "enum": list(NAMED_CHANNELS)},
        },
    }
    content = {"application/json": {"schema": body.model_json_schema()}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
