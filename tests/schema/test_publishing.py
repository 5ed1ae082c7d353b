"""What the Data API shows: private functions, published under their own names."""

from __future__ import annotations

import psycopg
import pytest

from fixtures.records import Records

GREET = """
    create function care.greet(name text, greeting text default 'Hello', at timestamptz default '2026-03-02 12:00Z')
    returns table_of
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$ select greet.greeting || ' ' || greet.name || ' at ' || extract(hour from greet.at at time zone 'UTC') $$;
    revoke execute on function care.greet from public;
    select care.expose('care.greet', '{authenticated}', 'It''s a greeting.', '{at}');
"""


def publish_greet(records: Records, result: str = "text") -> None:
    records.database.owner.execute(GREET.replace("table_of", result).encode())


def test_every_public_function_is_a_private_one_with_its_defaults_result_and_volatility(records: Records) -> None:
    described = """select proname, pg_get_function_result(oid) as result, provolatile,
            string_to_array(pg_get_function_arguments(oid), ', ') as arguments
        from pg_proc where {} and prokind = 'f'
            and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'e')"""
    public = records.rows(described.format("pronamespace = 'public'::regnamespace"))
    ours = "pronamespace in ('care'::regnamespace, 'voice'::regnamespace)"
    private = {row["proname"]: row for row in records.rows(described.format(ours))}
    assert len(public) > 20
    for function in public:
        of = private[function["proname"]]
        assert (function["result"], function["provolatile"]) == (of["result"], of["provolatile"]), function
        left_out = [argument for argument in of["arguments"] if argument not in function["arguments"]]
        assert [argument for argument in of["arguments"] if argument not in left_out] == function["arguments"]
        assert all("DEFAULT" in argument for argument in left_out), function


def test_a_published_function_passes_its_arguments_by_name_but_for_what_is_unpublished(records: Records) -> None:
    publish_greet(records)
    with records.database.as_role("authenticated") as api:
        assert api.execute("select greet('Ana')").fetchone() == ("Hello Ana at 12",)
        assert api.execute("select greet(greeting => 'Hi', name => 'Ben')").fetchone() == ("Hi Ben at 12",)
        with pytest.raises(psycopg.errors.UndefinedFunction):
            api.execute("select greet(name => 'Ana', at => now())")
    assert records.one("select obj_description('public.greet'::regproc)") == "It's a greeting."


def test_a_published_function_gives_rows_where_the_private_one_does(records: Records) -> None:
    publish_greet(records, "setof text")
    with records.database.as_role("authenticated") as api:
        assert api.execute("select * from greet('Ana')").fetchall() == [("Hello Ana at 12",)]


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_a_published_function_is_for_the_named_roles_alone(records: Records, role: str) -> None:
    # As older Supabase projects have it.
    records.do(
        "alter default privileges in schema public grant execute on functions to anon, authenticated, service_role"
    )
    publish_greet(records)
    with records.database.as_role(role) as api, pytest.raises(psycopg.errors.InsufficientPrivilege):
        api.execute("select greet('Ana')")
    for function in ("care.greet", "public.greet"):
        assert not records.one("select has_function_privilege(%s, %s::regproc, 'execute')", role, function)
