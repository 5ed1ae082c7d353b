"""The faults of ``scripts/faults``, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import crashes, fuzz, load, locks, matrix, sharing
from fixtures.databases import Database


@pytest.mark.timeout(600)
def test_kills_lose_nothing_double_nothing_and_change_no_score(speech_dir: Path) -> None:
    print(matrix.kill_matrix(speech_dir, matrix.Plan(calls=20, worker_kills=5, server_kills=2)))


def test_a_recording_that_kills_its_worker_ends_dead_and_its_neighbours_are_done(database: Database) -> None:
    print(crashes.a_recording_that_kills(database))


def test_a_worker_that_slept_through_its_lease_cannot_commit(database: Database) -> None:
    print(crashes.a_worker_that_sleeps_through_its_lease(database))


def test_more_workers_finish_sooner_and_claim_nothing_twice(database: Database) -> None:
    print(sharing.more_workers_finish_sooner(database, calls=12))


def test_a_storm_of_claims_hands_out_each_check_once(database: Database) -> None:
    print(sharing.a_storm_of_claims(database, clients=16, checks=500))


def test_every_function_that_writes_in_any_order_makes_no_deadlock(database: Database, postgres_version: int) -> None:
    print(postgres_version, locks.no_deadlock(database, seconds=8.0))


def test_mutated_recordings_are_answered_with_a_known_code(database: Database) -> None:
    print(fuzz.fuzzed_recordings(database, 120))


def test_mutated_requests_are_answered_and_never_with_a_server_error(database: Database) -> None:
    print(fuzz.fuzzed_requests(database, 100))


def test_steady_load_lets_nothing_grow(database: Database) -> None:
    print(load.steady_load(database, 15.0))
