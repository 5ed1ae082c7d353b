"""The service's callers: keys with scopes, added and revoked while it runs, kept as hashes, their use noted."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from databases import Server
from retrocare_voice.auth import check_binding, hash_of
from retrocare_voice.errors import ConfigurationError
from running import Running, running, settings_for

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


@pytest.fixture(autouse=True)
def no_keys(app: Running) -> Iterator[None]:
    yield
    app.records.do("delete from voice.api_keys")


def add(app: Running, key: str, *scopes: str) -> None:
    app.service.database.add_api_key(f"the holder of {key}", list(scopes), hash_of(key))


def status(app: Running, route: tuple[str, str], key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return app.client.request(*route, headers=headers).status_code


@pytest.mark.parametrize("scope", ["embed", "check", "read", "admin"])
def test_a_key_opens_the_routes_of_its_scopes_and_no_other(app: Running, scope: str) -> None:
    add(app, "secret", scope)
    for of, routes in ROUTES.items():
        for route in routes:
            found = status(app, route, "secret")
            assert (found == 403) == (scope not in (of, "admin")), (route, found)
            assert found not in (401, 500)
            assert status(app, route) == 401
            assert status(app, route, "Secret") == 401


def test_a_refusal_names_the_scope_that_is_missing(app: Running) -> None:
    add(app, "secret", "embed")
    answer = app.client.get("/metrics", headers={"X-API-Key": "secret"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "admin" in answer.json()["detail"]


def test_keys_are_added_and_revoked_while_the_service_runs(app: Running) -> None:
    [route] = ROUTES["admin"]
    assert status(app, route) == 200  # on loopback, while there is no key
    add(app, "one", "admin")
    assert [status(app, route, key) for key in ("", "one", "two")] == [401, 200, 401]
    add(app, "two", "admin")
    assert app.service.database.revoke_api_key("the holder of one")
    assert [status(app, route, key) for key in ("", "one", "two")] == [401, 401, 200]
    assert not app.service.database.revoke_api_key("the holder of one")


def test_only_the_hash_of_a_key_is_kept(app: Running) -> None:
    add(app, "a-key-that-nobody-may-read", "admin")
    row = app.records.row("select * from voice.api_keys")
    assert row["key_sha256"] == hash_of("a-key-that-nobody-may-read")
    row["name"] = ""
    assert "a-key-that-nobody-may-read" not in str(row)
    assert "key_sha256" not in app.service.database.api_keys()[0]


def test_the_use_of_a_key_is_noted_once_an_hour_and_its_making_and_end_always(app: Running) -> None:
    app.records.do("delete from voice.api_keys")
    before = app.records.one("select coalesce(max(id), 0) from voice.audit_log")
    add(app, "secret", "read")
    for _ in range(3):
        status(app, ROUTES["read"][0], "secret")
    app.records.do("update voice.api_keys set last_used_at = last_used_at - interval '2 hours'")
    status(app, ROUTES["read"][0], "secret")
    app.service.database.revoke_api_key("the holder of secret")
    entries = app.records.rows("select action, actor_role from voice.audit_log where id > %s order by id", before)
    assert [entry["action"] for entry in entries] == ["inserted", "key_used", "key_used", "updated"]
    assert {entry["actor_role"] for entry in entries} == {"retrocare_service"}
    assert app.records.one("select last_used_at from voice.api_keys") is not None


def test_the_environments_key_has_all_scopes_beside_the_others(server: Server) -> None:
    with server.clone(server.migrated_template) as database, running(database, api_key=SecretStr("master")) as app:
        add(app, "secret", "read")
        [route] = ROUTES["admin"]
        assert [status(app, route, key) for key in ("", "master", "secret")] == [401, 200, 403]


def test_without_any_key_the_service_listens_on_loopback_only(server: Server) -> None:
    with server.clone(server.migrated_template) as database:
        for_all = settings_for(database, host="0.0.0.0")
        with pytest.raises(ConfigurationError):
            check_binding(for_all, has_keys=False)
        check_binding(for_all, has_keys=True)
        check_binding(settings_for(database, host="0.0.0.0", api_key=SecretStr("master")), has_keys=False)
        check_binding(settings_for(database), has_keys=False)
