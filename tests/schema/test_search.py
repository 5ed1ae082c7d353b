"""Search across patients: ``match_voices`` against what NumPy finds, and what must never hide a voice."""

from __future__ import annotations

import math
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
import pytest

from fixtures.inputs import ROOT
from fixtures.records import ENCODER, USUAL, Records, Row, at_cosine, text


def match(records: Records, voice: object = USUAL, **arguments: object) -> list[Row]:
    embedding = text(voice) if isinstance(voice, tuple) else voice
    return records.rpc("match_voices", None, "service_role", embedding=embedding, **arguments)


def people(records: Records, vectors: npt.NDArray[np.float64], encoder: str = ENCODER) -> list[UUID]:
    """Make a patient with a current baseline for each vector; nobody made it of calls."""
    rows = records.rows(
        "insert into public.patients (name) select 'Ana' from generate_series(1, %s) returning id", len(vectors)
    )
    ids = [row["id"] for row in rows]
    records.do(
        """insert into voice.baselines (patient_id, encoder, version, embedding, sample_count)
           select id, %s, 1, voice::extensions.vector, 1 from unnest(%s::uuid[], %s::text[]) as t (id, voice)""",
        encoder, ids, [text(vector) for vector in vectors],
    )  # fmt: skip
    return ids


def voices(count: int, dimension: int = 3) -> npt.NDArray[np.float64]:
    made = np.random.default_rng(7).normal(size=(count, dimension))
    unit: npt.NDArray[np.float64] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def only_by_index(records: Records) -> None:
    """Have new connections plan with an index wherever there is one."""
    records.database.admin.execute(f"alter database {records.database.name} set enable_seqscan = off".encode())
    records.database.admin.execute(f"alter database {records.database.name} set enable_sort = off".encode())


def index_of(records: Records, encoder: str = ENCODER) -> str:
    """Name the index of an encoder's voices."""
    found: str = records.one(
        "select indexrelid::regclass::text from pg_index where indrelid = 'voice.baselines'::regclass"
        " and pg_get_indexdef(indexrelid) like '%%USING hnsw%%' and pg_get_indexdef(indexrelid) like %s",
        f"%{encoder}%",
    )
    return found


def test_a_voice_finds_whose_it_is_and_who_sounds_alike(records: Records) -> None:
    ana, bea, eva = records.patient(), records.patient(), records.patient()
    records.enrol(ana, USUAL, USUAL, USUAL)
    records.enrol(bea, at_cosine(0.8))
    records.enrol(eva, at_cosine(0.2))
    assert [tuple(row.values()) for row in match(records, USUAL)] == [
        (ana, pytest.approx(1), 3, 3, False),
        (bea, pytest.approx(0.8), 1, 1, True),
    ]


def test_what_is_alike_is_asked_or_the_policys(records: Records) -> None:
    people(records, np.array([at_cosine(similarity) for similarity in (1.0, 0.76, 0.74, 0.1, -1.0)]))
    assert [row["cosine_similarity"] for row in match(records)] == pytest.approx([1, 0.76])
    records.set_policy(medium_above=0.1)
    assert [row["cosine_similarity"] for row in match(records)] == pytest.approx([1])
    assert [row["cosine_similarity"] for row in match(records, min_similarity=0.0)] == pytest.approx(
        [1, 0.76, 0.74, 0.1]
    )
    assert len(match(records, min_similarity=-1.0)) == 5
    assert len(match(records, min_similarity=-1.0, count=2)) == 2


@pytest.mark.parametrize("count", [1, 20, 100])
def test_the_nearest_are_those_that_numpy_finds_in_that_order(records: Records, count: int) -> None:
    vectors = voices(2_000)
    ids = people(records, vectors)
    records.do("analyze voice.baselines")
    only_by_index(records)
    for asked in voices(30)[::-1]:
        exact = (vectors.astype(np.float32) @ asked).argsort()[::-1][:count]
        found = match(records, tuple(asked * 3.0), count=count, min_similarity=-1.0)  # the length says nothing
        assert [row["patient_id"] for row in found] == [ids[place] for place in exact]
    assert scans(records) >= 30


def scans(records: Records) -> int:
    records.database.close()  # who leaves reports what was read
    found: int = records.one(
        "select idx_scan from pg_stat_user_indexes where indexrelid = %s::regclass", index_of(records)
    )
    return found


def test_superseded_versions_are_not_found_and_hide_nobody(records: Records) -> None:
    ana = records.patient()
    others = voices(500)
    people(records, others[others[:, 0] < 0.9])
    # More than are weighed at a time, each of them in the index, dead, and nearer than what is current.
    records.do(
        f"""do $$ begin for version in 1..1100 loop
               insert into voice.baselines (patient_id, encoder, version, embedding, sample_count)
               values ('{ana}', '{ENCODER}', version, ('[1,' || version * 1e-6 || ',0]')::extensions.vector, 1);
               update voice.baselines set superseded_at = now() where patient_id = '{ana}' and superseded_at is null;
           end loop; end $$"""
    )
    records.enrol(ana, at_cosine(0.99))
    records.do("update care.settings set search_breadth = 1")
    only_by_index(records)
    [found] = match(records, count=1)
    assert (found["patient_id"], found["baseline_version"]) == (ana, 1101)
    assert found["cosine_similarity"] == pytest.approx(0.99)


def test_voices_of_other_encoders_are_not_found_and_hide_nobody(records: Records) -> None:
    records.register("other-v1")
    people(records, np.array([at_cosine(1 - number * 1e-6) for number in range(2_000)]), "other-v1")
    [ana] = people(records, np.array([at_cosine(0.8)]))
    records.do("update care.settings set search_breadth = 1")
    only_by_index(records)
    assert [row["patient_id"] for row in match(records, count=5)] == [ana]
    assert [row["patient_id"] for row in match(records, count=5, encoder=ENCODER)] == [ana]
    assert len(match(records, count=5, encoder="other-v1")) == 5


def test_nobody_is_said_only_after_a_wider_look(records: Records) -> None:
    records.register("wide-v1", 96)
    vectors = voices(1_500, 96)
    ids = people(records, vectors, "wide-v1")
    records.do("select voice.index_voices('wide-v1', 5, 12)")  # so sparse that many are missed at first
    records.do("update care.settings set search_breadth = 1")
    only_by_index(records)
    asked = vectors[:50] + 0.6 * voices(1_600, 96)[1_500:1_550]
    found = [match(records, tuple(voice), encoder="wide-v1", count=1) for voice in asked]
    right = [rows[0]["patient_id"] == patient_id for rows, patient_id in zip(found, ids, strict=False) if rows]
    assert all(right)
    assert len(right) >= 48


def test_an_erased_voice_is_not_found(records: Records) -> None:
    ana = records.patient()
    records.enrol(ana, USUAL)
    assert len(match(records)) == 1
    records.rpc("withdraw_consent", patient_id=ana)
    assert match(records) == []


@pytest.mark.parametrize(
    ("voice", "arguments", "code", "words"),
    [
        ("[1,0]", {}, "PT400", "The vector has 2 dimensions, but those of test-v1 have 3"),
        ("[0,0,0]", {}, "PT400", "The zero vector has no similarity to any other"),
        (None, {}, "PT400", "embedding is null"),
        ("[1,0,0]", {"count": 0}, "PT400", "count is 0"),
        ("[1,0,0]", {"count": 101}, "PT400", "count is 101"),
        ("[1,0,0]", {"count": None}, "PT400", "count is null"),
        ("[1,0,0]", {"min_similarity": 1.5}, "PT400", "min_similarity is 1.5"),
        ("[1,0,0]", {"min_similarity": -1.1}, "PT400", "min_similarity is -1.1"),
        ("[1,0,0]", {"min_similarity": math.nan}, "PT400", "min_similarity is NaN"),
        ("[1,0,0]", {"encoder": "nobody's"}, "PT404", "No encoder nobody's is registered"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_with_a_hint(
    records: Records, voice: str | None, arguments: Row, code: str, words: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        match(records, voice, **arguments)
    assert (refused.value.sqlstate, refused.value.diag.message_primary) == (code, words)
    assert refused.value.diag.message_hint


@pytest.mark.parametrize("voice", ["[1e30,0,0]", "[1e-30,0,0]"])
def test_the_length_of_a_voice_says_nothing(records: Records, voice: str) -> None:
    [ana] = people(records, np.array([USUAL]))
    [found] = match(records, voice)
    assert (found["patient_id"], found["cosine_similarity"]) == (ana, pytest.approx(1))


@pytest.mark.parametrize("voice", ["[NaN,0,0]", "[Infinity,0,0]"])
def test_what_is_no_number_is_no_vector(records: Records, voice: str) -> None:
    with pytest.raises(psycopg.errors.DataException):
        match(records, voice)


def test_without_an_encoder_there_is_nothing_to_search(records: Records) -> None:
    records.do("update care.models set is_active = false")
    with pytest.raises(psycopg.Error, match="No encoder at all is registered"):
        match(records)


def test_a_search_is_noted_with_each_patient_who_was_found(records: Records) -> None:
    ana, bea = people(records, np.array([at_cosine(1), at_cosine(0.9)]))
    match(records)
    match(records, (0.0, 0.0, 1.0))
    noted = records.rows("select * from care.audit_log where action = 'voice_matched' order by id")
    assert [row["patient_id"] for row in noted] == [ana, bea, None]
    assert {row["actor_role"] for row in noted} == {"service_role"}
    assert noted[0]["detail"] == {"encoder": ENCODER}


@pytest.mark.parametrize("encoder", ['o\'hara "v1"', "a" * 200, "ü" * 100])
def test_any_encoder_is_indexed_under_a_name_of_its_own(records: Records, encoder: str) -> None:
    records.register(encoder)
    records.register(f"{encoder}2")
    [ana] = people(records, np.array([USUAL]), encoder)
    only_by_index(records)
    assert [row["patient_id"] for row in match(records, encoder=encoder)] == [ana]
    assert match(records, encoder=f"{encoder}2") == []
    counted = records.one("select count(*) from pg_indexes where tablename = 'baselines' and indexdef like '%%hnsw%%'")
    assert counted == 3


def test_vectors_too_long_for_an_index_are_searched_all_the_same(records: Records) -> None:
    records.register("long-v1", 5_000)
    [ana, _] = people(records, voices(2, 5_000), "long-v1")
    asked = tuple(voices(2, 5_000)[0])
    assert [row["patient_id"] for row in match(records, asked, encoder="long-v1")] == [ana]


def test_an_index_can_be_made_anew_with_another_degree(records: Records) -> None:
    [ana] = people(records, np.array([USUAL]))
    records.do("select voice.index_voices(%s, 24, 64)", ENCODER)
    assert "m='24', ef_construction='64'" in records.one("select pg_get_indexdef(%s::regclass)", index_of(records))
    only_by_index(records)
    assert [row["patient_id"] for row in match(records)] == [ana]


def test_who_was_enrolled_twice_is_answered_by_the_query_in_the_guide(records: Records) -> None:
    guide = (ROOT / "docs" / "search.md").read_text()
    query = guide.split("```sql\n")[1].split("```")[0]
    pairs = [records.patient() for _ in range(4)]
    for patient_id, voice in zip(pairs, (USUAL, at_cosine(0.99), at_cosine(0.3), (0.0, 0.0, 1.0)), strict=True):
        records.enrol(patient_id, voice)
    [found] = records.rows(query.replace("%", "%%"))
    assert {found["patient_id"], found["sounds_like"]} == set(pairs[:2])
    assert found["cosine_similarity"] == pytest.approx(0.99)
