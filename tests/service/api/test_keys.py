"""The service's callers: keys with scopes, added and revoked while it runs, kept as hashes, their use noted."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from fixtures.databases import Server
from fixtures.running import Running, running, settings_for
from retrocare.api.auth import check_binding, hash_of
from retrocare.errors import ConfigurationError

ROUTES = {
    "embed": [("POST", "/embed"), ("POST", "/compare")],
    "check": [("POST", "/api/anomaly-check"), ("POST", f"/api/patients/{uuid4()}/baseline"), ("POST", "/wake")],
    "read": [("GET", f"/api/anomaly-logs/{uuid4()}"), ("GET", f"/api/anomaly-logs?patientIds={uuid4()}")],
    "admin": [("GET", "/metrics")],
}


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[Running]:
    with server.clone(server.migrated_template) as database, running(database) as found:
        yield found


def add(app: Running, *scopes: str) -> str:
    """Make a key, and return it."""
    key = str(uuid4())
    app.service.database.add_api_key(holder(key), list(scopes), hash_of(key))
    return key


def holder(key: str) -> str:
    return f"the holder of {key[:8]}"


def status(app: Running, route: tuple[str, str], key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return app.client.request(*route, headers=headers).status_code


@pytest.mark.parametrize("scope", ["embed", "check", "read", "admin"])
def test_a_key_opens_the_routes_of_its_scopes_and_no_other(app: Running, scope: str) -> None:
    key = add(app, scope)
    for of, routes in ROUTES.items():
        for route in routes:
            found = status(app, route, key)
            assert (found == 403) == (scope not in (of, "admin")), (route, found)
            assert found not in (401, 500)
            assert status(app, route) == 401
            assert status(app, route, key.upper()) == 401


def test_a_refusal_names_the_scope_that_is_missing(app: Running) -> None:
    answer = app.client.get("/metrics", headers={"X-API-Key": add(app, "embed")})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "admin" in answer.json()["detail"]


def test_keys_are_added_and_revoked_while_the_service_runs(app: Running) -> None:
    [route] = ROUTES["admin"]
    one, two = add(app, "admin"), add(app, "admin")
    assert [status(app, route, key) for key in ("", one, "neither")] == [401, 200, 401]
    assert app.service.database.revoke_api_key(holder(one))
    assert [status(app, route, key) for key in ("", one, two)] == [401, 401, 200]
    assert not app.service.database.revoke_api_key(holder(one))


def test_revoking_the_last_key_opens_nothing(server: Server) -> None:
    [route] = ROUTES["admin"]
    with server.clone(server.migrated_template) as database:
        with running(database) as app:
            assert status(app, route) == 200  # on loopback, while no key was ever made
            key = add(app, "admin")
            assert app.service.database.revoke_api_key(holder(key))
            assert [status(app, route, shown) for shown in ("", key)] == [401, 401]
        with running(database) as app:  # another process, which never saw a key that stands
            assert [status(app, route, shown) for shown in ("", key)] == [401, 401]


def test_only_loopback_excuses_from_a_key(server: Server) -> None:
    with server.clone(server.migrated_template) as database, running(database, host="0.0.0.0") as app:
        for routes in ROUTES.values():
            for route in routes:
                assert status(app, route) == 401, route


def test_a_database_that_is_away_opens_nothing(server: Server) -> None:
    [route] = ROUTES["embed"][1:]
    with server.clone(server.migrated_template) as database, running(database) as app:
        app.records.do("revoke usage on schema care, voice from retrocare_service")
        assert status(app, route) == 503  # whether there are keys was never known
        app.records.do("grant usage on schema care, voice to retrocare_service")
        key = add(app, "admin")
        assert status(app, route) == 401
        app.records.do("revoke usage on schema care, voice from retrocare_service")
        assert [status(app, route, shown) for shown in ("", key)] == [401, 503]


def test_only_the_hash_of_a_key_is_kept(app: Running) -> None:
    key = add(app, "admin")
    row = app.records.row("select * from care.api_keys where name = %s", holder(key))
    assert row["key_sha256"] == hash_of(key)
    assert key not in str(row)
    assert "key_sha256" not in app.service.database.api_keys()[0]


def test_the_use_of_a_key_is_noted_once_an_hour_and_its_making_and_end_always(app: Running) -> None:
    before = app.records.one("select coalesce(max(id), 0) from care.audit_log")
    key = add(app, "read")
    for _ in range(3):
        status(app, ROUTES["read"][0], key)
    app.records.do("update care.api_keys set last_used_at = last_used_at - interval '2 hours'")
    status(app, ROUTES["read"][0], key)
    app.service.database.revoke_api_key(holder(key))
    entries = app.records.rows("select action, actor_role from care.audit_log where id > %s order by id", before)
    assert [entry["action"] for entry in entries] == ["inserted", "key_used", "key_used", "updated"]
    assert {entry["actor_role"] for entry in entries} == {"retrocare_service"}
    assert app.records.one("select last_used_at from care.api_keys where name = %s", holder(key)) is not None


def test_the_environments_key_has_all_scopes_beside_the_others(server: Server) -> None:
    with server.clone(server.migrated_template) as database, running(database, api_key=SecretStr("master")) as app:
        key = add(app, "read")
        [route] = ROUTES["admin"]
        assert [status(app, route, shown) for shown in ("", "master", key)] == [401, 200, 403]


def test_without_any_key_the_service_listens_on_loopback_only(server: Server) -> None:
    with server.clone(server.migrated_template) as database:
        for_all = settings_for(database, host="0.0.0.0")
        with pytest.raises(ConfigurationError):
            check_binding(for_all, has_keys=False)
        check_binding(for_all, has_keys=True)
        check_binding(settings_for(database, host="0.0.0.0", api_key=SecretStr("master")), has_keys=False)
        check_binding(settings_for(database), has_keys=False)
