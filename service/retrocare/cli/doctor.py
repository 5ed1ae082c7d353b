"""What ``retrocare doctor`` checks, in the order in which a call needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx

from retrocare import __version__
from retrocare.audio.vad import load_networks
from retrocare.calibration.document import shipped_ids
from retrocare.database.client import Row
from retrocare.database.connection import connected
from retrocare.encoders.loading import load_encoder
from retrocare.errors import RetrocareError
from retrocare.settings import Settings

NETWORK_SECONDS = 6.0  # for all requests over the network together
ONE_ANSWER_SECONDS = 3.0


@dataclass
class Doctor:
    """Check each part; the database's own report of its set-up is read once."""

    settings: Settings
    deadline: float = field(default_factory=lambda: time.monotonic() + NETWORK_SECONDS)
    setup: Row = field(default_factory=dict)

    def seconds_left(self) -> float:
        return min(ONE_ANSWER_SECONDS, max(0.1, self.deadline - time.monotonic()))

    def containers(self) -> str:
        if importlib.util.find_spec("av") is None:
            raise RetrocareError("m4a and webm are not read.", "pip install 'retrocare-voice[containers]'")
        return f"PyAV {importlib.metadata.version('av')}"

    def speech_detection(self) -> str:
        load_networks()
        return "silero-vad"

    def encoder(self) -> str:
        """Load what a service would load."""
        active = self.setup.get("active_encoder")
        found = load_encoder(
            self.settings.encoder,
            model_dir=self.settings.models,
            ecapa_dir=self.settings.ecapa_dir,
            active=active,
            fetch_seconds=self.seconds_left(),
            calibrated=shipped_ids(),
        )
        if active not in (None, found.encoder.id):
            hint = f"RETROCARE_ENCODER={active}, or `retrocare backfill --encoder {found.encoder.id} --activate`."
            raise RetrocareError(f"{found.encoder.id} is not the active encoder, which is {active}", hint)
        return found.why.removeprefix("the encoder is ")

    def database(self) -> str:
        with connected(self.settings) as opened:
            self.setup = opened.setup_report()
            release = opened.release()["version"]
        where = "yours" if self.settings.database_url else f"embedded, in {self.settings.data_dir}"
        return f"{where}; release {release}; this program is {__version__}"

    def active_encoder(self) -> str:
        if not self.setup.get("active_encoder"):
            raise RetrocareError("No encoder is active", "One becomes so when the service first starts.")
        return str(self.setup["active_encoder"])

    def calibration(self) -> str:
        active = self.active_encoder()
        if self.setup.get("calibration_id") is None:
            raise RetrocareError(
                f"{active} has none: its scores are by the fixed rule", "`retrocare calibrate` makes one."
            )
        return f"{self.setup['calibration_id']} of {active}; calls are judged by the {self.setup['rule']} rule"

    def fetching(self) -> str:
        named = [*self.settings.recording_hosts, *self.settings.private_recording_hosts]
        if not named:
            raise RetrocareError("Recordings may be fetched from no host", "Set RETROCARE_FETCH_HOSTS.")
        return f"recordings are fetched from {', '.join(named)}"

    def storage(self) -> str:
        url, key = self.settings.supabase_url, self.settings.supabase_secret_key
        if not url or not key:
            raise RetrocareError("Not configured", "SUPABASE_URL and SUPABASE_SECRET_KEY, for recordings in Storage.")
        secret, bucket = key.get_secret_value(), self.settings.supabase_storage_bucket
        headers = {"apikey": secret, "Authorization": f"Bearer {secret}"}
        status = self.status_of(f"{url.rstrip('/')}/storage/v1/bucket/{bucket}", headers)
        if status != httpx.codes.OK:
            raise RetrocareError(f"Storage answers {status} for the bucket {bucket}", "Are key and bucket right?")
        return f"the bucket {bucket} is there"

    def functions(self) -> str:
        url = self.settings.functions_url
        if not url:
            raise RetrocareError("No address is set", "RETROCARE_FUNCTIONS_URL, unless pg_cron and pg_net call them.")
        status = self.status_of(f"{url.rstrip('/')}/notify-caregiver", {})
        if status == httpx.codes.NOT_FOUND or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise RetrocareError(f"notify-caregiver answers {status}", "Is it deployed, and the address right?")
        return f"{url} answers"

    def status_of(self, url: str, headers: dict[str, str]) -> int:
        try:
            return httpx.get(url, headers=headers, timeout=self.seconds_left(), trust_env=False).status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RetrocareError(f"It does not answer ({type(error).__name__})", "Is the address right?") from None

    def channels(self) -> str:
        if not self.setup:
            raise RetrocareError("Not known without the database")
        if not self.setup["channels"]:
            raise RetrocareError("Messages go by no channel", "Enable one in care.delivery_channels.")
        untold, patients = self.setup["patients_without_reachable_caregiver"], self.setup["patients"]
        if untold:
            raise RetrocareError(f"Of {untold} of {patients} patients nobody can be told", "`retrocare caregiver add`")
        return f"{', '.join(self.setup['channels'])}; each of {patients} patients has a caregiver who is reached"

    def keys(self) -> str:
        standing = self.setup.get("standing_keys", 0) + (self.settings.api_key is not None)
        if not standing:
            raise RetrocareError("None: the service listens on loopback only", "`retrocare key add`")
        return f"{standing} stand"


def diagnose(settings: Settings, say: Callable[[str], object] = lambda line: None) -> Iterator[Row]:
    """Try each part for real; a row says ok, absent (optional) or missing, and what to do."""
    doctor = Doctor(settings)
    attempts: list[tuple[str, Callable[[], str], bool]] = [
        ("Python", platform.python_version, True),
        ("decoder", lambda: f"soundfile {importlib.metadata.version('soundfile')}", True),
        ("m4a, webm", doctor.containers, False),
        ("database", doctor.database, True),
        ("active encoder", doctor.active_encoder, False),
        ("calibration", doctor.calibration, False),
        ("speech detection", doctor.speech_detection, True),
        ("encoder", doctor.encoder, True),
        ("fetching", doctor.fetching, False),
        ("Storage", doctor.storage, bool(settings.supabase_url)),
        ("edge functions", doctor.functions, bool(settings.functions_url)),
        ("messages", doctor.channels, False),
        ("API keys", doctor.keys, False),
    ]
    for part, attempt, is_needed in attempts:
        say(f"Looking at {part} ...")
        try:
            yield {"part": part, "state": "ok", "detail": attempt()}
        except RetrocareError as error:
            detail = f"{str(error).rstrip('.')}. {error.hint}".strip()
            yield {"part": part, "state": "missing" if is_needed else "absent", "detail": detail}
