-- Search across patients: whose voice is this? Was it enrolled twice? Does it belong to another member of the household?
--
-- Only current baselines are searched, with one approximate index (HNSW) per encoder. The index stores half-precision vectors, which
-- halves its size at the same recall; the nearest are then compared in full precision. Measurements are in docs/search.md.

create type public.voice_match as (
    patient_id uuid,
    cosine_similarity double precision,
    baseline_version integer,
    sample_count integer,
    is_provisional boolean
);
comment on type public.voice_match is
    'A patient with a similar voice. cosine_similarity (-1 .. 1) is to the current baseline; is_provisional tells that this baseline has fewer samples than the policy requires.';

create function voice.index_voices(encoder text, degree integer default 24, build_breadth integer default 200)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    name text := 'voices_of_' || md5(index_voices.encoder);  -- an encoder id may be longer than an identifier
    dimension integer := (select encoders.dimension from voice.encoders where encoders.id = index_voices.encoder);
begin
    execute format('drop index if exists voice.%I', name);
    -- HNSW supports at most 4000 dimensions. Longer vectors are searched without an index, which is exact.
    if dimension <= 4000 then
        execute format(
            'create index %I on voice.baselines
             using hnsw ((embedding::extensions.halfvec(%s)) extensions.halfvec_cosine_ops)
             with (m = %s, ef_construction = %s) where superseded_at is null and encoder = %L',
            name, dimension, index_voices.degree, index_voices.build_breadth, index_voices.encoder);
    end if;
end
$$;
comment on function voice.index_voices is
    'Builds the index of an encoder''s current baselines, or rebuilds it; completions wait meanwhile. degree is the m of HNSW, build_breadth its ef_construction. Called when an encoder is registered, and by an operator who wants other values.';
revoke execute on function voice.index_voices from public;

create function voice.on_encoder()
returns trigger
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform voice.index_voices(new.id);
    return null;
end
$$;
comment on function voice.on_encoder is 'Trigger: makes the baselines of a new encoder searchable.';
revoke execute on function voice.on_encoder from public;

create function voice.searched_encoder(
    embedding extensions.vector, encoder text, count integer, min_similarity double precision
)
returns voice.encoders
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    searched voice.encoders;
    misfit text;
    remedy text;
begin
    select encoders.* into searched
    from voice.encoders
    where encoders.id = coalesce(searched_encoder.encoder, voice.active_encoder());
    case
        when searched_encoder.embedding is null then
            misfit := 'embedding is null';
            remedy := 'Send a vector as POST /embed returns it.';
        when searched_encoder.count is null or searched_encoder.count not between 1 and 100 then
            misfit := format('count is %s', coalesce(searched_encoder.count::text, 'null'));
            remedy := 'Use a value from 1 to 100.';
        when searched_encoder.min_similarity not between -1 and 1 then
            misfit := format('min_similarity is %s', searched_encoder.min_similarity);
            remedy := 'A cosine lies between -1 and 1. Use null for the encoder''s default.';
        when searched.id is null then
            raise exception using
                errcode = 'PT404',
                message = format('No encoder %s is registered', coalesce(searched_encoder.encoder, 'at all')),
                hint = 'A service registers its encoder when it starts.';
        when extensions.vector_dims(searched_encoder.embedding) <> searched.dimension then
            misfit := format('The vector has %s dimensions, but those of %s have %s',
                extensions.vector_dims(searched_encoder.embedding), searched.id, searched.dimension);
            remedy := 'Name the encoder that produced the vector.';
        when extensions.vector_norm(searched_encoder.embedding) = 0 then
            misfit := 'The zero vector has no similarity to any other';
            remedy := 'Send the vector as the encoder produced it.';
        else
            return searched;
    end case;
    raise exception using errcode = 'PT400', message = misfit, hint = remedy;
end
$$;
comment on function voice.searched_encoder is
    'Validates the arguments of a search and returns the encoder to search (null: the active one). Raises PT400, PT404.';
revoke execute on function voice.searched_encoder from public;

create function voice.match_voices(
    embedding extensions.vector, encoder text default null, count integer default 5,
    min_similarity double precision default null
)
returns setof public.voice_match
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    searched voice.encoders := voice.searched_encoder(
        match_voices.embedding, match_voices.encoder, match_voices.count, match_voices.min_similarity);
    policy voice.policies := voice.policy(searched.id);
    -- Compare a few more than requested in full precision, since half precision may swap near neighbours.
    candidates integer := match_voices.count + 10;
    found_voice public.voice_match;
    breadth integer;
    is_anybody boolean := false;
begin
    -- Superseded versions stay in the graph until the next vacuum and resemble the current one. An iterative scan continues past
    -- them.
    perform set_config('hnsw.iterative_scan', 'relaxed_order', true);
    perform set_config('hnsw.max_scan_tuples', '20000', true);

    -- The first pass nearly always finds a match if there is one. Report nobody only after a pass with the maximum breadth.
    foreach breadth in array array[greatest((select search_breadth from care.settings), candidates), 1000] loop
        perform set_config('hnsw.ef_search', breadth::text, true);
        -- The encoder is a literal in the text, because with a parameter only custom plans could use the partial index.
        for found_voice in execute format(
            'select nearest.patient_id, 1 - (nearest.embedding operator(extensions.<=>) $1), nearest.version,
                 nearest.sample_count, nearest.sample_count < $4
             from (
                 select baselines.*
                 from voice.baselines
                 where baselines.encoder = %L and baselines.superseded_at is null
                 order by baselines.embedding::extensions.halfvec(%s) operator(extensions.<=>) $1::extensions.halfvec(%2$s)
                 limit $2
             ) as nearest
             where 1 - (nearest.embedding operator(extensions.<=>) $1) >= $3
             order by nearest.embedding operator(extensions.<=>) $1
             limit $5', searched.id, searched.dimension)
        using extensions.l2_normalize(match_voices.embedding), candidates,
            coalesce(match_voices.min_similarity, 1 - (care.thresholds_for(searched.id)).medium_above), policy.baseline_minimum_samples, match_voices.count
        loop
            perform care.note_audit('voice_matched', 'voice.match_voices', found_voice.patient_id,
                jsonb_build_object('encoder', searched.id));
            is_anybody := true;
            return next found_voice;
        end loop;
        exit when is_anybody;
    end loop;
    if not is_anybody then
        perform care.note_audit('voice_matched', 'voice.match_voices', null, jsonb_build_object('encoder', searched.id));
    end if;
end
$$;
comment on function voice.match_voices is
    'Returns the patients whose current baselines are most similar to this embedding, nearest first, and notes each in the audit log. If min_similarity is null, it is 1 - medium_above of the encoder''s thresholds. Sets hnsw.* for the rest of the transaction. Raises PT400, PT404. Security definer: callers may not read the embeddings of baselines.';
revoke execute on function voice.match_voices from public;
