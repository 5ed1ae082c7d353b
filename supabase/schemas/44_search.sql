-- Search across patients: who sounds like this? Has this voice been enrolled twice? Is it a member of the household?
--
-- Only current baselines are searched, one approximate index (HNSW) per encoder. It holds half-precision numbers: half the size, at
-- the same recall; the nearest are then measured again in full precision. docs/search.md has what was measured.

create type public.voice_match as (
    patient_id uuid,
    cosine_similarity double precision,
    baseline_version integer,
    sample_count integer,
    is_provisional boolean
);
comment on type public.voice_match is
    'A patient who sounds alike: cosine_similarity (-1 .. 1) to the current baseline; is_provisional: it has fewer samples than the policy asks for.';

create function voice.index_voices(encoder text, degree integer default 24, build_breadth integer default 200)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    name text := 'voices_of_' || md5(index_voices.encoder);  -- an id may be longer than a name
    dimension integer := (select encoders.dimension from voice.encoders where encoders.id = index_voices.encoder);
begin
    execute format('drop index if exists voice.%I', name);
    -- HNSW takes no more; a search of longer vectors reads every current baseline, and is exact.
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
    'Makes the index of an encoder''s current baselines, anew where there is one; completions wait meanwhile. degree is HNSW''s m, build_breadth its ef_construction. Called when an encoder is registered, and by an operator who wants others.';
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
comment on function voice.on_encoder is 'Trigger: a new encoder''s baselines can be searched.';
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
            misfit := 'There is no voice to look for';
            remedy := 'embedding is a vector, such as POST /embed returns.';
        when searched_encoder.count is null or searched_encoder.count not between 1 and 100 then
            misfit := format('count is %s', coalesce(searched_encoder.count::text, 'null'));
            remedy := 'Ask for 1 to 100 voices.';
        when searched_encoder.min_similarity not between -1 and 1 then
            misfit := format('min_similarity is %s', searched_encoder.min_similarity);
            remedy := 'A cosine lies between -1 and 1; null takes what the encoder''s policy calls as usual.';
        when searched.id is null then
            raise exception using
                errcode = 'PT404',
                message = format('No encoder %s is registered', coalesce(searched_encoder.encoder, 'at all')),
                hint = 'A service registers its encoder when it starts.';
        when extensions.vector_dims(searched_encoder.embedding) <> searched.dimension then
            misfit := format('The vector has %s dimensions, those of %s have %s',
                extensions.vector_dims(searched_encoder.embedding), searched.id, searched.dimension);
            remedy := 'Name the encoder that made the vector.';
        when extensions.vector_norm(searched_encoder.embedding) = 0 then
            misfit := 'The zero vector is like nothing';
            remedy := 'Send the vector as the encoder made it.';
        else
            return searched;
    end case;
    raise exception using errcode = 'PT400', message = misfit, hint = remedy;
end
$$;
comment on function voice.searched_encoder is
    'The encoder whose voices are searched (null: the active one), once everything that was asked is found right. Raises PT400, PT404.';
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
    -- A few more than asked for are measured in full precision: half of it may put near neighbours in the wrong order.
    candidates integer := match_voices.count + 10;
    found_voice public.voice_match;
    breadth integer;
    is_anybody boolean := false;
begin
    -- Superseded versions stay in the graph until the next vacuum, and sound like the current one: look on past them.
    perform set_config('hnsw.iterative_scan', 'relaxed_order', true);
    perform set_config('hnsw.max_scan_tuples', '20000', true);

    -- Who is there is nearly always found at once: nobody is said only after a look as wide as can be.
    foreach breadth in array array[greatest((select search_breadth from care.settings), candidates), 1000] loop
        perform set_config('hnsw.ef_search', breadth::text, true);
        -- The encoder stands in the text: with a parameter in its place the index would serve some plans only.
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
    'The patients whose current baseline is most like this voice, nearest first, each noted in the audit. min_similarity null: 1 - medium_above of the encoder''s policy. Sets hnsw.* for the rest of the transaction. Raises PT400, PT404. Definer: nobody reads baselines'' vectors.';
revoke execute on function voice.match_voices from public;
