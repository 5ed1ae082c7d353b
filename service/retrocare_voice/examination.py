"""What ``retrocare doctor`` looks at."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable

from retrocare_voice.connection import connected
from retrocare_voice.database import Row
from retrocare_voice.encoder import load_encoder
from retrocare_voice.errors import RetrocareError
from retrocare_voice.settings import Settings


def examine(settings: Settings) -> list[Row]:
    """Try each thing for real; a row says ok, absent (can be done without) or missing, and what to do."""
    found: list[Row] = []

    def look(part: str, attempt: Callable[[], str], *, needed: bool = True) -> None:
        try:
            found.append({"part": part, "state": "ok", "detail": attempt()})
        except RetrocareError as error:
            state = "missing" if needed else "absent"
            found.append({"part": part, "state": state, "detail": f"{error}. {error.hint}".replace("..", ".").strip()})

    def encoder(name: str) -> str:
        return load_encoder(name, model_dir=settings.models, ecapa_dir=settings.ecapa_dir, fetch_seconds=5).encoder.id

    def database() -> str:
        with connected(settings) as opened:
            return f"{'yours' if settings.database_url else 'embedded'}; active encoder: {opened.active_encoder()}"

    def containers() -> str:
        if importlib.util.find_spec("av") is None:
            raise RetrocareError("m4a and webm are not read.", "pip install 'retrocare-voice[containers]'")
        return f"PyAV {importlib.metadata.version('av')}"

    look("Python", platform.python_version)
    look("decoder", lambda: f"soundfile {importlib.metadata.version('soundfile')}")
    look("m4a, webm", containers, needed=False)
    look("ge2e", lambda: encoder("ge2e"), needed=settings.encoder == "ge2e")
    look("ecapa", lambda: encoder("ecapa"), needed=settings.encoder == "ecapa")
    look("database", database)
    return found
