"""Run the HTTP service: one process, one model."""

from __future__ import annotations

import uvicorn

from retrocare_voice.app import create_app
from retrocare_voice.auth import check_binding
from retrocare_voice.console import say
from retrocare_voice.service import opened_service
from retrocare_voice.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises: ConfigurationError, Unavailable before anything listens.
    """
    check_binding(settings)
    # Opened here and not in the application's lifespan: what is missing is then a clear message and no traceback.
    with opened_service(settings, say) as service:
        app = create_app(settings, service)
        uvicorn.run(app, host=settings.host, port=settings.port, workers=1, log_level="info", access_log=False)
