"""The demo: a patient is enrolled, later calls are judged, and the database shows what it holds.

Nothing is staged: each recording is processed as a real one, and each score is computed by a SQL function.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import chain
from pathlib import Path
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from retrocare.checks.service import Service, opened_service
from retrocare.cli.console import print_json, print_rows, put, results, say
from retrocare.database.client import Row
from retrocare.errors import BadRequest
from retrocare.recordings.fetch import Recording
from retrocare.settings import Settings

RECORDINGS = Path(__file__).with_name("demo_recordings")
TIMEZONE = ZoneInfo("Europe/Lisbon")
NOON = time(12, tzinfo=TIMEZONE)
ENROLLED_FROM = 3
JUDGED_AS_USUAL, JUDGED_AS_OTHERS = 4, 3
SHOWN = ("call", "outcome", "judged", "snr", "similarity", "score")

STORY = {
    "01-enrol-monday": "enrolment",
    "02-enrol-tuesday": "enrolment",
    "03-enrol-wednesday": "enrolment",
    "04-usual-thursday": "same voice",
    "05-usual-friday": "same voice",
    "06-usual-saturday": "same voice",
    "07-usual-sunday": "same voice",
    "08-slow-day": "same voice, slower",
    "09-noisy-line": "same voice, noisy",
    "10-another-voice": "another voice",
    "11-whisper": "a whisper",
    "12-silence": "silence",
}


@dataclass(frozen=True)
class Scene:
    """One recording and its caption."""

    file: Path
    caption: str
    is_enrolment: bool = False


def run(settings: Settings, speech: Path | None, as_json: bool) -> None:
    """Play the story on an embedded database of its own, so that its people are on no operator's list.

    Raises: ConfigurationError, Unavailable, BadRequest where the folder of recordings does not fit.
    """
    scenes = list(recorded(speech) if speech else synthesised())
    settings = settings.model_copy(update={"data_dir": settings.data_dir / "demo", "model_dir": settings.models})
    with opened_service(settings, say) as service:
        name = f"Ana of {datetime.now():%Y-%m-%d %H:%M:%S}"
        patient = service.database.add_patient(name, TIMEZONE.key, has_consent=True)
        rows = list(play(service, patient["id"], scenes, as_json))
        held = service.database.row_counts(patient["id"])
    if as_json:
        print_json({"patient": patient, "calls": rows, "rows": held, "encoder": service.encoder, "why": service.why})
        return
    results.print(f"{service.why[0].upper()}{service.why[1:]}.\n", highlight=False)
    print_rows(rows, SHOWN)
    results.print(f"\nWhat the database now holds of {name}:\n")
    print_rows(held)
    put("\nEach score was computed by voice.complete_check(), in SQL, over pgvector columns.")
    if not speech:
        put("The voices are synthetic: they show how it works, not how well it hears illness.")
    command = f'RETROCARE_DATA_DIR={settings.data_dir} {program()} check "{name}" your-recording.wav'
    results.print(f"\nNow with a recording of your own:\n\n    {command}\n", highlight=False, soft_wrap=True)


def program() -> str:
    """Return how to call this command from here."""
    return "retrocare" if shutil.which("retrocare") else os.path.relpath(sys.argv[0])


def play(service: Service, patient_id: UUID, scenes: list[Scene], quiet: bool) -> Iterator[Row]:
    """Judge each recording as the call of one day, at noon."""
    enrolment_id = uuid4()
    first_day = datetime.now(TIMEZONE).date() - timedelta(days=len(scenes))
    for day, scene in enumerate(scenes):
        if not quiet:
            say(f"{day + 1:2}/{len(scenes)} {scene.file.stem}")
        call = {"source": "onboarding", "enrolment_id": enrolment_id} if scene.is_enrolment else {"source": "upload"}
        at = datetime.combine(first_day + timedelta(days=day), NOON)
        result, _ = service.judge(Recording(content=scene.file), patient_id, occurred_at=at, **call)
        verdict = "another voice" if result["verdict"] == "another_voice" else None
        judged = [verdict, result["severity"], result["alert_type"], result["reason"]]
        yield {
            "call": f"{day + 1:2} {scene.caption}",
            "file": scene.file.name,
            "outcome": result["state"],
            "judged": ", ".join(str(part) for part in judged if part),
            "snr": result["snr"],
            "similarity": result["raw_similarity"],
            "score": result["anomaly_score"],
        }


def synthesised() -> Iterator[Scene]:
    """Yield the recordings that come with the package."""
    for stem, caption in STORY.items():
        yield Scene(RECORDINGS / f"{stem}.flac", caption, is_enrolment="enrol" in stem)


def recorded(speech: Path) -> Iterator[Scene]:
    """Yield real recordings: the first folder is the patient, the others answer in the patient's place."""
    people = [longest(folder) for folder in sorted(speech.glob("*/"))]
    people = [files for files in people if files]
    if len(people) < 2 or len(people[0]) <= ENROLLED_FROM:
        raise BadRequest(
            f"{speech} holds too little to compare",
            hint=f"Give a folder a person: two people or more, over {ENROLLED_FROM} recordings of the first.",
        )
    patient, *others = people
    for number, file in enumerate(sorted(patient[: ENROLLED_FROM + JUDGED_AS_USUAL])):
        yield Scene(file, "enrolment" if number < ENROLLED_FROM else "same person", number < ENROLLED_FROM)
    for file in list(chain.from_iterable(files[:1] for files in others))[:JUDGED_AS_OTHERS]:
        yield Scene(file, f"another, {file.parent.name}")


def longest(folder: Path) -> list[Path]:
    """Return the files of a folder, the largest first: short ones hold too little speech."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(files, key=lambda path: (-path.stat().st_size, path))
