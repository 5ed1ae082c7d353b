"""A service gives its encoder the calibration that comes with it, and says loudly where there is none."""

from __future__ import annotations

import pytest

from fixtures.calibrated import DOCUMENT
from fixtures.databases import Database
from fixtures.records import ENCODER, Records
from fixtures.running import settings_for
from retrocare.calibration.document import shipped_ids
from retrocare.checks.service import calibrate_as_shipped, opened_service
from retrocare.database.client import Database as Client
from retrocare.database.connection import connected


def test_a_service_judges_by_the_calibration_that_comes_with_its_encoder(database: Database) -> None:
    said: list[str] = []
    for _ in range(2):
        with opened_service(settings_for(database), said.append) as service:
            policy = service.database.policy(service.encoder)
            assert (policy["rule"], policy["calibration_id"]) == ("calibrated", 1)
    assert not any("WARNING" in line for line in said)
    assert "ge2e-v2" in shipped_ids()


def test_an_operators_choice_of_the_fixed_rule_outlives_a_start(database: Database) -> None:
    with opened_service(settings_for(database)) as service:
        service.database.set_policy(service.encoder, {"rule": "fixed"})
    with opened_service(settings_for(database)) as service:
        assert service.database.policy(service.encoder)["rule"] == "fixed"


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_an_encoder_without_a_calibration_is_loudly_said_to_have_none(records: Records, is_calibrated: bool) -> None:
    said: list[str] = []
    with connected(settings_for(records.database)) as client:
        assert isinstance(client, Client)
        if is_calibrated:
            client.use_calibration(ENCODER, client.add_calibration(ENCODER, DOCUMENT))
        calibrate_as_shipped(client, ENCODER, said.append)
    assert ["WARNING: test-v1 has no calibration." in line for line in said] == ([] if is_calibrated else [True])
