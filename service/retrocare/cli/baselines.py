"""The commands about a patient's baseline: list its versions, restore one, withdraw a sample."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from retrocare.cli.console import Json, PatientName, Yes, confirm, find, opened, say, show
from retrocare.database.client import Database

VERSIONS = ("version", "is_current", "sample_count", "kept_samples", "created_at", "call_log_ids")


def baseline(
    patient: PatientName,
    restore: Annotated[int | None, typer.Option(help="Make the samples of this version current again.")] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """List the versions of a patient's baseline, newest first, or restore an earlier one."""
    with opened() as database:
        patient_id = find(database, patient)
        if restore is not None:
            goes = [
                f"Calls of {patient} are then compared with the samples of version {restore}.",
                present(database, patient_id),
            ]
            confirm("Restore it?", goes, yes)
            made = database.restore_baseline(patient_id, restore)
            say(f"Version {made} is made of the samples of version {restore}.")
        show(database.baseline_versions(patient_id), as_json, VERSIONS)


def withdraw_sample(
    patient: PatientName,
    call_log_id: Annotated[UUID, typer.Argument(metavar="CALL_ID", help="As `retrocare patient baseline` lists it.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove one call from a patient's baseline, for instance because somebody else spoke."""
    with opened() as database:
        patient_id = find(database, patient)
        goes = [
            f"The baseline of {patient} would be made without the call {call_log_id}.",
            present(database, patient_id),
        ]
        confirm("Withdraw the sample?", goes, yes)
        database.withdraw_sample(patient_id, call_log_id)
        show(database.baseline_versions(patient_id), as_json, VERSIONS)
        say("`retrocare patient baseline --restore` makes an earlier version current again.")


def present(database: Database, patient_id: UUID) -> str:
    """Say what the current version is."""
    for row in database.baseline_versions(patient_id):
        if row["is_current"]:
            return f"The present version is {row['version']}, of {row['sample_count']} samples."
    return "There is no baseline at present."
