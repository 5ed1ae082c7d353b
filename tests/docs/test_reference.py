"""docs/reference.md is complete: what a program may rely on, and is not on that page, fails here."""

from __future__ import annotations

import ast
import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from dataclasses import fields

import pytest

from fixtures.databases import Database
from fixtures.inputs import ROOT
from fixtures.records import Records
from fixtures.running import running
from retrocare import errors
from retrocare.api import payloads, problems
from retrocare.audio.features import Features
from retrocare.database import errors as refusals

PAGE = (ROOT / "docs" / "reference.md").read_text()
QUOTED = set(re.findall(r"`([^`\n]+)`", PAGE))
PACKAGE = ROOT / "service" / "retrocare"
FUNCTIONS = ROOT / "supabase" / "functions"


def codes_of_errors() -> Iterator[str]:
    """Read the codes in the sources: a class's own, and those that are given to an error when it is raised."""
    yield from problems.CODES.values()
    yield from (code for _, code in refusals.ERRORS.values())
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)} | {"TooBusy", "MigrationFailed"}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Assign(targets=[ast.Name("code")], value=ast.Constant(str() as code)):
                    yield code
                case ast.Assign(
                    targets=[ast.Tuple([ast.Name("code"), *_])], value=ast.Tuple([ast.Constant(str() as code), *_])
                ):
                    yield code
                case ast.Call(func=ast.Name(name), args=given, keywords=named) if name in kinds | {"problem"}:
                    given = [*given[1 if name == "problem" else 2 :][:1], *(k.value for k in named if k.arg == "code")]
                    yield from (str(value.value) for value in given if isinstance(value, ast.Constant) and value.value)


def codes_of_functions() -> Iterator[str]:
    """Read the codes that the edge functions give to their errors, those that end in a number left out."""
    for file in FUNCTIONS.rglob("*.ts"):
        text = file.read_text()
        yield from re.findall(r"""new (?:Recording|Delivery|Fetch)Failure\(\s*"(\w+)\"""", text)
        yield from re.findall(r"""new Problem\(\s*\w+,\s*"(\w+)\"""", text)
        yield from re.findall(r"""return [^;]*"(provider_\w+)\"""", text)


def settings_of_functions() -> Iterator[str]:
    for file in FUNCTIONS.rglob("*.ts"):
        yield from re.findall(r"""(?:get\(|, )"([A-Z]+(?:_[A-Z]+)+)\"""", file.read_text())


def missing(words: set[str]) -> list[str]:
    assert words
    return sorted(words - QUOTED)


def test_every_error_code_is_in_the_reference() -> None:
    codes = set(codes_of_errors())
    assert {"recording_too_large", "too_busy", "encoder_not_active", "migration_failed", "impossible_time"} <= codes
    assert missing(codes) == []


def test_every_error_code_of_the_edge_functions_is_in_the_reference() -> None:
    codes = set(codes_of_functions())
    assert {"not_json", "unknown_provider", "recording_late", "twilio_busy", "provider_unauthorised"} <= codes
    assert missing(codes) == []


def test_every_setting_is_in_the_reference() -> None:
    service_settings = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    functions_settings = set(settings_of_functions())
    assert {
        "VAPI_API_KEY",
        "TWILIO_AUTH_TOKEN",
        "ALERT_WEBHOOK_SECRET",
        "RETROCARE_FUNCTIONS_KEY",
    } <= functions_settings
    assert missing(service_settings | functions_settings) == []


def test_every_route_with_its_scope_and_fields_is_in_the_reference(database: Database) -> None:
    with running(database) as app:
        document = app.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scope = f"`{operation['x-scope']}`" if "x-scope" in operation else "none"
            assert f"| `{method.upper()} {path}` | {scope} |" in PAGE
            assert {parameter["name"] for parameter in operation.get("parameters", [])} <= QUOTED
    models = document["components"]["schemas"]
    shown = [schema["properties"] for schema in models.values()]
    bodies = (payloads.EmbedRequest, payloads.EnrolRequest, payloads.Problem)
    shown += [body.model_json_schema()["properties"] for body in bodies]
    assert missing({field for fields in shown for field in fields}) == []


@pytest.mark.parametrize(
    "enum",
    ["public.check_state", "public.check_reason", "public.anomaly_severity", "public.alert_type", "public.call_source",
     "public.recording_channel", "public.alert_level", "public.alert_change", "public.operator_issue_kind",
      "care.api_scope"],
)  # fmt: skip
def test_every_word_of_the_database_that_callers_meet_is_in_the_reference(database: Database, enum: str) -> None:
    values = Records(database).one("select array_agg(enumlabel::text) from pg_enum where enumtypid = %s::regtype", enum)
    assert missing(set(values)) == []


def test_every_column_of_a_call_is_in_the_reference(database: Database) -> None:
    columns = Records(database).one(
        "select array_agg(attname::text) from pg_attribute where attrelid = 'public.call_logs'::regclass and attnum > 0"
    )
    assert missing(set(columns)) == []


def test_every_measure_of_speech_and_every_reason_is_in_the_reference(database: Database) -> None:
    rows = Records(database).rows("select id, above_reason, below_reason from voice.features")
    assert {row["id"] for row in rows} == {field.name for field in fields(Features)}
    assert {name for row in rows for name in row.values()} - QUOTED == set()


def test_the_webhooks_sample_takes_what_is_signed_and_nothing_else() -> None:
    [sample] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, object] = {}
    exec(sample, scope)
    is_genuine = scope["is_genuine"]
    assert callable(is_genuine)
    now, body = str(int(time.time())), b'{"type":"alert"}'
    signed = hmac.new(b"secret", f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"X-RetroCare-Timestamp": now, "X-RetroCare-Signature": signed}
    assert is_genuine(headers, body, "secret")
    assert not is_genuine(headers, body + b" ", "secret")
    assert not is_genuine(headers, body, "another")
    assert not is_genuine({**headers, "X-RetroCare-Timestamp": str(int(now) - 3600)}, body, "secret")
