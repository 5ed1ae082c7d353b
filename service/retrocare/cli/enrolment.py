"""The check before a baseline is replaced: do the recordings sound like the patient?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from retrocare.checks.service import Service
from retrocare.cli.console import confirm, say
from retrocare.database.client import Row
from retrocare.errors import NotAssessable, RetrocareError, Unprocessable
from retrocare.recordings.fetch import Recording


def check_replacement(
    service: Service, patient_id: UUID, name: str, files: Sequence[Path], channel: Any, yes: bool
) -> None:
    """Refuse recordings unlike the patient's complete baseline; ask before others replace it. Nothing is stored.

    Raises: Unprocessable, BadRequest where nobody said yes.
    """
    compared = {file: found for file in files if (found := _compared(service, patient_id, file, channel))}
    if not compared:
        return
    present = next(iter(compared.values()))
    described = f"version {present['baseline_version']}, of {present['sample_count']} samples"
    unlike = {file: found for file, found in compared.items() if found["is_unlike"]}
    for file, found in unlike.items():
        say(f"{file.name} does not sound like {name}: score {found['anomaly_score']:.3f}, {found['severity']}.")
    if unlike:
        told = f"{len(unlike)} of {len(files)} recordings do not sound like {name}'s baseline ({described})"
        hint = f"None was enrolled. Where they are {name}'s all the same, say --replace."
        raise Unprocessable(told, hint, "unlike_baseline")
    if len(compared) >= service.database.policy(service.encoder)["baseline_minimum_samples"]:
        goes = f"The baseline of {name} ({described}) would be replaced."
        confirm("Replace it?", [goes, "`retrocare patient baseline --restore` is the way back."], yes)


def _compared(service: Service, patient_id: UUID, file: Path, channel: Any) -> Row | None:
    """Compare one recording with the baseline; None where that is impossible: enrolling then says why."""
    try:
        made, _ = service.embed(Recording(channel=channel, content=file))
    except RetrocareError:
        return None
    if isinstance(made, NotAssessable):
        return None
    return service.database.compare_with_baseline(patient_id, service.encoder, made.embedding, made.snr_db)
