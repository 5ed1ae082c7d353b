"""Commands as a user types them: what surrounds them, and how they are run in this process where that says enough."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner

from inputs import MODELS
from retrocare.cli.demo import RECORDINGS
from retrocare.cli.main import app

Run = Callable[..., subprocess.CompletedProcess[str]]
OURS = ("RETROCARE_", "SUPABASE_", "DATABASE_URL", "PORT", "CORS_ORIGINS", "ALERT_WEBHOOK_SECRET")


def bare_environment(**values: str) -> dict[str, str]:
    """Give an environment in which nothing of this project is set but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "RETROCARE_ENCODER": "ge2e", "RETROCARE_MODEL_DIR": str(MODELS), "COLUMNS": "160", **values}


def in_process(**values: str) -> Run:
    """Give what runs commands in this process: a second sooner than in one of their own."""
    unset = {name: None for name in os.environ if name.startswith(OURS)}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            done = CliRunner().invoke(app, words, env={**unset, **bare_environment(**values), **more})
        finally:
            signal.signal(signal.SIGTERM, handler)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(list(words), done.exit_code, done.stdout, done.stderr)

    return run


def objects(text: str) -> list[dict[str, Any]]:
    """Read what --json prints: an object a line."""
    return [json.loads(line) for line in text.splitlines()]


def recording(name: str) -> str:
    return str(RECORDINGS / f"{name}.flac")
