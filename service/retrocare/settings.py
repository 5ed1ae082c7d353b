"""The settings, read from the environment. ``.env.example`` lists each with its default."""

from __future__ import annotations

import difflib
import os
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from dotenv import dotenv_values
from platformdirs import user_data_path
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from retrocare.errors import ConfigurationError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ENV_FILE = ".env"
PREFIX = "RETROCARE_"
EARLIER_DATA = Path(".retrocare")  # where 0.1 kept the data, in the working directory


def default_data_dir() -> Path:
    """Return the default data folder, which does not depend on the working directory."""
    if EARLIER_DATA.is_dir():
        return EARLIER_DATA
    return Path("/var/lib/retrocare") if os.geteuid() == 0 else user_data_path("retrocare", appauthor=False)


class Settings(BaseSettings):
    """Hold the settings; the environment takes precedence over ``.env`` in the working directory."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True
    )

    database_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    """Where PostgreSQL is; without it, the embedded one in data_dir."""
    supabase_url: str | None = Field(None, validation_alias="SUPABASE_URL")
    supabase_secret_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
    )
    supabase_storage_bucket: str = Field("voice-recordings", validation_alias="SUPABASE_STORAGE_BUCKET")
    """The one bucket that `storage:bucket/path` references may name."""
    port: int = Field(8000, validation_alias="PORT", ge=0, le=65535)
    cors_origins: str = Field("", validation_alias="CORS_ORIGINS")
    """Origins that browsers may call from, separated by commas."""

    host: str = "127.0.0.1"
    api_key: SecretStr | None = None
    """What callers must show; without it the service binds to loopback only."""
    data_dir: Path = default_data_dir()
    """Where the embedded PostgreSQL and fetched weights live."""
    encoder: str = "auto"
    """A family of encoders, the id of one, or `auto`: the first whose weights are at hand."""
    model_dir: Path | None = None
    """Where fetched weights are kept; models/ in data_dir where it is not given."""
    inference_threads: int | None = Field(None, ge=1)
    """How many threads encode; as many as there are cores where nothing is given. One for each of several processes."""
    ecapa_dir: Path | None = None
    """A folder with SpeechBrain's spkrec-ecapa-voxceleb."""
    fetch_seconds: float = Field(60.0, gt=0)
    """The longest that one recording may take to arrive."""
    fetch_hosts: str = ""
    """Hosts that recordings may come from, separated by commas; `*.example.org` for all below it, `*` for every one."""
    fetch_private_hosts: str = ""
    """`host` or `host:port`, separated by commas: allowed, and may be private, without TLS and at that port."""
    fetch_allow_http: bool = False
    maximum_recording_bytes: int = Field(100_000_000, gt=0)
    lease_seconds: float = Field(300.0, gt=0)
    """How long a check may be worked on before another worker takes it."""
    database_connections: int = Field(8, ge=1)
    worker_lanes: int = Field(4, ge=1, le=64)
    """How many checks a worker holds: one is encoded while the others are fetched."""
    poll_seconds: float = Field(5.0, gt=0)
    """How often a worker polls the work list where nothing wakes it."""
    functions_url: str | None = None
    """Where the edge functions are, for the scheduler to call; without it, pg_cron and the database's wake-ups do."""
    alert_webhook_secret: SecretStr | None = Field(None, validation_alias="ALERT_WEBHOOK_SECRET")
    """What the secrets of the caregivers' webhooks are made from; the edge functions have the same."""
    functions_key: SecretStr | None = None
    """What the edge functions ask for."""
    schedule_seconds: float = Field(10.0, gt=0)
    """How often the scheduler looks for what has become due: escalations, reminders, retries."""
    reconcile_seconds: float = Field(300.0, gt=0)
    """How often the provider's list is read for calls that were never reported."""
    admitted_requests: int = Field(8, ge=1)
    """How many recordings the synchronous routes take on at once; the next caller is told to come again."""
    admitted_audio_seconds: float = Field(7200.0, gt=0)
    """And how many seconds of audio, together."""
    request_seconds: float = Field(120.0, gt=0)
    """How long such a request may take."""

    @field_validator("database_url")
    @classmethod
    def _is_an_address(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            conninfo_to_dict(url.get_secret_value() if url else "")
        except psycopg.ProgrammingError:
            raise ValueError("this is no address of a PostgreSQL") from None
        return url

    @cached_property
    def allowed_origins(self) -> list[str]:
        return _listed(self.cors_origins)

    @cached_property
    def recording_hosts(self) -> list[str]:
        """The hosts of fetch_hosts; where none is named, that of supabase_url."""
        return _listed(self.fetch_hosts.lower()) or _listed(urlsplit(self.supabase_url or "").hostname or "")

    @cached_property
    def private_recording_hosts(self) -> list[str]:
        return _listed(self.fetch_private_hosts.lower())

    @property
    def models(self) -> Path:
        return self.model_dir or self.data_dir / "models"


def _listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def read_settings() -> Settings:
    """Read and check the settings.

    Raises: ConfigurationError naming the first setting that is wrong or misspelt.
    """
    refuse_misspelt()
    try:
        return Settings()  # type: ignore[call-arg]  # pydantic-settings fills the aliased fields from the environment
    except ValidationError as invalid:
        first = invalid.errors()[0]
        name = str(first["loc"][0])
        name = name if name.isupper() else f"{PREFIX}{name.upper()}"
        hint = "Such as postgresql://retrocare_service:password@host:5432/postgres." if name == "DATABASE_URL" else ""
        told = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigurationError(f"{name}: {told}", hint or ".env.example says what each setting takes.") from None


def refuse_misspelt() -> None:
    """Refuse a name that is almost one of ours, since a setting that is silently ignored is noticed late.

    Raises: ConfigurationError.
    """
    known = [PREFIX + name.upper() for name, field in Settings.model_fields.items() if field.validation_alias is None]
    for name in sorted({name.upper() for name in (*os.environ, *dotenv_values(ENV_FILE))} - set(known)):
        near = difflib.get_close_matches(name, known, 1, 0.9) if name.startswith(PREFIX) else []
        if near:
            raise ConfigurationError(f"{name} is no setting", f"Did you mean {near[0]}? .env.example lists them all.")
