"""What a query can hold of the house style: every object that the migrations make, looked at one by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.inputs import ROOT
from fixtures.records import Records
from retrocare.database.errors import SENTENCES

HERE = Path(__file__).parent
OURS = """(select oid from pg_namespace
    where nspname in ('public', 'care') or nspname in (select schema_name from care.signals))"""
# Of extensions, and of what stood there before us, nothing is asked.
NOT_AN_EXTENSIONS = "not exists (select from pg_depend where objid = o.oid and deptype = 'e')"


def names(records: Records, query: str) -> list[str]:
    return [" ".join(str(value) for value in row.values()) for row in records.rows(query)]


def test_every_relation_has_a_comment(records: Records) -> None:
    found = names(
        records,
        f"""select o.oid::regclass::text as name from pg_class as o
            where relnamespace in {OURS} and relkind in ('r', 'v', 'm', 'p')
                and obj_description(oid, 'pg_class') is null and {NOT_AN_EXTENSIONS}""",
    )
    assert found == []


def test_every_function_has_a_comment(records: Records) -> None:
    found = names(
        records,
        f"""select o.oid::regprocedure::text as name from pg_proc as o
            where pronamespace in {OURS} and obj_description(oid, 'pg_proc') is null and {NOT_AN_EXTENSIONS}""",
    )
    assert found == []


def test_every_type_has_a_comment(records: Records) -> None:
    found = names(
        records,
        f"""select o.oid::regtype::text as name from pg_type as o left join pg_class as c on c.oid = o.typrelid
            where typnamespace in {OURS} and (typtype in ('e', 'd') or c.relkind = 'c')
                and obj_description(o.oid, 'pg_type') is null and {NOT_AN_EXTENSIONS}""",
    )
    assert found == []


@pytest.mark.parametrize("suffix", ["_db", "_seconds", "_share", "_score", "_similarity", "_hour"])
def test_a_measure_says_what_it_measures(records: Records, suffix: str) -> None:
    """Whoever reads `snr_db` in some table finds the column, or one of that name in a table, explained."""
    found = names(
        records,
        f"""select distinct attname as name from pg_attribute as a join pg_class as o on o.oid = a.attrelid
            where o.relnamespace in {OURS} and o.relkind = 'r' and attnum > 0
                and right(attname, {len(suffix)}) = '{suffix}'
            group by attname having bool_and(col_description(o.oid, attnum) is null)""",
    )
    assert found == []


def test_every_function_searches_the_catalog_first_and_temporary_objects_last(records: Records) -> None:
    """With an empty path pg_temp comes first for names of types: whoever may make one would run as the owner."""
    found = names(
        records,
        f"""select o.oid::regprocedure::text as name from pg_proc as o
            where pronamespace in {OURS} and not 'search_path=pg_catalog, pg_temp' = any (coalesce(proconfig, '{{}}'))
                and {NOT_AN_EXTENSIONS}""",
    )
    assert found == []


def test_no_function_is_left_open_to_everybody(records: Records) -> None:
    found = names(
        records,
        f"""select o.oid::regprocedure::text as name from pg_proc as o
            where pronamespace in {OURS} and has_function_privilege('anon', oid, 'execute') and {NOT_AN_EXTENSIONS}""",
    )
    assert found == []


def test_definer_functions_stay_in_the_private_schema(records: Records) -> None:
    assert names(records, "select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef") == []


def test_every_table_has_row_level_security(records: Records) -> None:
    found = names(
        records,
        f"""select oid::regclass::text as name from pg_class
            where relnamespace in {OURS} and relkind = 'r' and not relrowsecurity""",
    )
    assert found == []


def test_every_view_runs_with_its_readers_rights(records: Records) -> None:
    found = names(
        records,
        f"""select oid::regclass::text as name from pg_class
            where relnamespace in {OURS} and relkind = 'v'
                and not coalesce(reloptions, '{{}}') @> '{{security_invoker=true}}'""",
    )
    assert found == []


def test_every_policy_is_for_one_verb_and_named_roles(records: Records) -> None:
    assert names(records, "select polname from pg_policy where polcmd = '*' or polroles = '{0}'") == []


def test_every_constraint_has_a_name_of_its_own(records: Records) -> None:
    found = names(
        records,
        f"""select conrelid::regclass::text || ': ' || conname as name from pg_constraint
            where connamespace in {OURS} and contype <> 'n' and conrelid <> 0
                and conname ~ '(_check|_fkey|_key|_excl)[0-9]*$'""",
    )
    assert found == []


def test_every_constraint_that_has_a_sentence_of_its_own_exists(records: Records) -> None:
    found = records.rows(
        "select conname as name from pg_constraint union select relname from pg_class where relkind = 'i'"
    )
    assert set(SENTENCES) - {row["name"] for row in found} == set()


def test_every_foreign_key_has_an_index(records: Records) -> None:
    found = names(
        records,
        f"""select conrelid::regclass::text || ': ' || conname as name from pg_constraint as fk
            where connamespace in {OURS} and contype = 'f' and not exists (
                select from pg_index as i
                where i.indrelid = fk.conrelid and i.indkey[0] = fk.conkey[1]
                    -- A partial one serves where it leaves out nothing but what refers to nothing.
                    and (i.indpred is null or pg_get_expr(i.indpred, i.indrelid) = (
                        select format('(%%I IS NOT NULL)', attname) from pg_attribute
                        where attrelid = fk.conrelid and attnum = fk.conkey[1])))""",
    )
    assert found == []


def test_grants_are_as_listed(records: Records) -> None:
    """``grants.txt`` lists who may do what, so that a new grant is seen in review."""
    found = names(
        records,
        f"""select distinct grantee, privilege, name from (
                select acl.grantee::regrole::text as grantee, lower(acl.privilege_type) as privilege,
                    o.oid::regclass::text as name, o.relowner as owner, acl.grantee as who
                from pg_class as o, aclexplode(o.relacl) as acl where o.relnamespace in {OURS}
                union all
                select acl.grantee::regrole::text, lower(acl.privilege_type) || ' column',
                    o.oid::regclass::text || '.' || a.attname, o.relowner, acl.grantee
                from pg_class as o join pg_attribute as a on a.attrelid = o.oid, aclexplode(a.attacl) as acl
                where o.relnamespace in {OURS}
                union all
                select acl.grantee::regrole::text, lower(acl.privilege_type),
                    p.pronamespace::regnamespace || '.' || p.proname, p.proowner, acl.grantee
                from pg_proc as p, aclexplode(p.proacl) as acl where p.pronamespace in {OURS}
                union all
                select acl.grantee::regrole::text, lower(acl.privilege_type) || ' schema', n.nspname, n.nspowner,
                    acl.grantee
                from pg_namespace as n, aclexplode(n.nspacl) as acl where n.oid in {OURS} and n.nspname <> 'public'
            ) as granted where who <> owner order by 1, 2, 3""",
    )
    listed = (HERE / "grants.txt").read_text().splitlines()
    assert found == listed, "if each change is meant, write it into tests/schema/grants.txt:\n" + "\n".join(found)


def test_the_service_role_is_in_no_other_role(records: Records) -> None:
    assert (
        names(
            records,
            """select r.rolname from pg_auth_members as m join pg_roles as r on r.oid = m.roleid
               where m.member = 'retrocare_service'::regrole""",
        )
        == []
    )
    flags = records.row(
        "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles where rolname = 'retrocare_service'"
    )
    assert set(flags.values()) == {False}


def test_the_schema_files_tell_the_journey() -> None:
    files = sorted((ROOT / "supabase" / "schemas").glob("*.sql"))
    first, last = files[0].read_text(), files[-1].read_text()
    assert len(re.findall(r"^--     \d ", first, re.MULTILINE)) == 8
    triggers = [path.name for path in files if "create trigger" in path.read_text()]
    assert triggers == [files[-1].name]
    assert last.startswith("-- Triggers")
