"""The description of the routes: whole enough for a client to be made from it, and true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema_rs
import pytest

from fixtures.databases import Server
from fixtures.running import Running, running
from retrocare.api import payloads
from retrocare.api.auth import NEEDED_SCOPE, ApiScope

ENUMS = {
    "public.check_state": payloads.CheckState,
    "public.check_reason": payloads.CheckReason,
    "public.anomaly_severity": payloads.Severity,
    "public.alert_type": payloads.AlertType,
    "care.api_scope": ApiScope,
}
JSON = ("application/json", "application/problem+json")


@pytest.fixture(scope="module")
def app(server: Server) -> Iterator[Running]:
    with server.clone(server.migrated_template) as database, running(database) as found:
        yield found


@pytest.fixture(scope="module")
def document(app: Running) -> dict[str, Any]:
    found: dict[str, Any] = app.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_operation_ids_are_short_words(document: dict[str, Any]) -> None:
    found = {operation["operationId"] for operation in operations(document).values()}
    assert found == {
        "health", "ready", "wake", "metrics", "embed", "compare", "check", "enroll", "patient_logs", "logs",
    }  # fmt: skip


def test_every_operation_is_public_or_names_its_scope_and_how_a_key_is_shown(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["scheme"], schemes["apiKey"]["name"]) == ("bearer", "X-API-Key")
    for name, operation in operations(document).items():
        if name in ("GET /health", "GET /readyz"):
            assert "security" not in operation
        else:
            assert operation["security"] == [{"bearer": []}, {"apiKey": []}], name
            assert operation[NEEDED_SCOPE] in get_args(ApiScope)


@pytest.mark.parametrize("enum", ENUMS)
def test_the_words_of_the_routes_are_those_of_the_database(app: Running, enum: str) -> None:
    values = app.records.one("select array_agg(enumlabel::text) from pg_enum where enumtypid = %s::regtype", enum)
    assert set(get_args(ENUMS[enum])) == set(values)


def test_outcome_reason_severity_and_alert_type_are_enums(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["CheckResponse"]["properties"]
    for name in ("outcome", "reason", "severity", "alertType"):
        choices = [fields[name], *fields[name].get("anyOf", [])]
        assert any("enum" in choice for choice in choices), name


def test_every_body_has_an_example_that_its_schema_takes(document: dict[str, Any]) -> None:
    seen = 0
    for name, operation in operations(document).items():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for body in bodies + list(operation["responses"].values()):
            for kind, content in body.get("content", {}).items():
                if kind in JSON:
                    schema = content["schema"]
                    target = schema.get("$ref", "").rpartition("/")[2]
                    examples = (document["components"]["schemas"][target] if target else schema).get("examples", [])
                    assert examples, (name, kind, schema)
                    validator = jsonschema_rs.validator_for({**schema, "components": document["components"]})
                    for example in examples:
                        validator.validate(example)
                        seen += 1
    assert seen > len(operations(document))


def test_the_documentation_asks_no_other_host_for_anything(app: Running) -> None:
    start = app.client.get("/")
    assert (start.status_code, start.headers["location"]) == (307, "/docs")
    page = app.client.get("/docs").text
    assert re.findall(r"https?://[^\"' ]+", page) == []
    found = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any(address.endswith(".js") for address in found)
    for address in found:
        assert app.client.get(address).status_code == 200
    assert app.client.get("/redoc").status_code == 404
