"""The SQL functions that the service and the edge functions call: each exists, with arguments of these names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fixtures.databases import Database
from fixtures.inputs import ROOT

SERVICE = ROOT / "service" / "retrocare"
EDGE_FUNCTIONS = ROOT / "supabase" / "functions"
CALLERS = {"_rows", "_row", "_values", "_value", "_call"}
RECEIVED = {"function"}  # what these pass on to one another

EXISTING = """
select proname, coalesce(proargnames, '{}'), pronargs, pronargdefaults
from pg_proc
where pronamespace = %s::regnamespace and prokind = 'f'
"""


@dataclass(frozen=True)
class Called:
    """A call as the source says it."""

    where: str
    function: str
    arguments: frozenset[str]


def calls_of_the_service() -> Iterator[Called]:
    for file in SERVICE.rglob("*.py"):
        assigned: dict[str, list[str]] = {}
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Assign(targets=[ast.Name("function")], value=value):
                    assigned["function"] = list(names_in(value))
                case ast.Call(func=ast.Attribute(attr=caller) | ast.Name(id=caller)) if caller in CALLERS:
                    given = node.args[1:] if caller == "_call" else node.args
                    if any(keyword.arg is None for keyword in node.keywords):
                        assert given[0].id in RECEIVED, f"{file.name}:{node.lineno}"  # type: ignore[attr-defined]
                        continue
                    [function] = given  # whatever else it takes, it takes by name
                    for name in assigned["function"] if isinstance(function, ast.Name) else names_in(function):
                        arguments = frozenset(str(keyword.arg) for keyword in node.keywords)
                        yield Called(f"{file.name}:{node.lineno}", name, arguments)


def names_in(node: ast.AST) -> Iterator[str]:
    """Find what a function may be called: one name, or one of two."""
    return (found.value for found in ast.walk(node) if isinstance(found, ast.Constant) and isinstance(found.value, str))


def calls_of_the_edge_functions() -> Iterator[Called]:
    for file in EDGE_FUNCTIONS.rglob("*.ts"):
        for name, given in re.findall(r'\brpc\("(\w+)", \{(.*?)\}\)', file.read_text(), re.DOTALL):
            keys = (part.partition(":")[0].strip() for part in given.split(","))
            yield Called(file.name, f"public.{name}", frozenset(key for key in keys if key))


def existing(database: Database) -> dict[str, list[tuple[frozenset[str], frozenset[str]]]]:
    """Give the functions: of each signature, which arguments it takes, and which it cannot do without."""
    found: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {}
    schemas = {called.function.partition(".")[0] for called in calls_of_the_service()} | {"public"}
    for schema in schemas:
        for name, arguments, count, defaults in database.owner.execute(EXISTING, [schema]).fetchall():
            signature = (frozenset(arguments[:count]), frozenset(arguments[: count - defaults]))
            found.setdefault(f"{schema}.{name}", []).append(signature)
    return found


def wrong(calls: Iterator[Called], functions: dict[str, list[tuple[frozenset[str], frozenset[str]]]]) -> list[Called]:
    """Give the calls that PostgreSQL would refuse, or of which it could not say which function is meant."""
    return [
        called
        for called in calls
        if sum(needed <= called.arguments <= taken for taken, needed in functions.get(called.function, [])) != 1
    ]


def test_every_function_that_the_service_calls_takes_arguments_of_these_names(database: Database) -> None:
    assert len(list(calls_of_the_service())) > 60
    assert wrong(calls_of_the_service(), existing(database)) == []


def test_every_function_that_the_edge_functions_call_takes_arguments_of_these_names(database: Database) -> None:
    assert len(list(calls_of_the_edge_functions())) >= 13
    assert wrong(calls_of_the_edge_functions(), existing(database)) == []


@pytest.mark.parametrize(
    ("arguments", "is_right"),
    [({"check_id", "lease_token"}, True), ({"check_id"}, False), ({"check_id", "lease_token", "worker"}, False)],
)
def test_a_call_that_lacks_an_argument_or_has_one_too_many_is_found(
    database: Database, arguments: set[str], is_right: bool
) -> None:
    call = Called("here", "care.release_check", frozenset(arguments))
    assert wrong(iter([call]), existing(database)) == ([] if is_right else [call])
