-- Baselines: how a patient sounds when well.
--
-- A baseline is l2_normalize(avg) of the unit vectors of its samples, per patient and encoder. A version never changes: each change
-- adds a new version, which supersedes the last. Only samples of healthy days count. A health flag that is added later withdraws the
-- samples of the time that it covers.

create table voice.baselines (
    id bigint generated always as identity constraint baselines_pkey primary key,
    patient_id uuid not null
        constraint a_baseline_is_of_a_patient references public.patients (id) on delete cascade,
    encoder text not null,
    version integer not null,
    embedding extensions.vector not null
        constraint a_baseline_has_unit_length check (abs(extensions.vector_norm(embedding) - 1) < 1e-4),
    dimension smallint not null generated always as (extensions.vector_dims(embedding)) stored,
    sample_count integer not null
        constraint a_baseline_has_a_sample check (sample_count >= 1),
    spread_mean double precision,
    spread_deviation double precision,
    enrolment_id uuid,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    constraint a_baseline_has_its_encoders_dimension
        foreign key (encoder, dimension) references voice.encoders (id, dimension),
    constraint a_spread_needs_two_samples check ((sample_count >= 2) = (spread_mean is not null)),
    constraint baseline_versions_are_counted unique (patient_id, encoder, version),
    constraint baselines_by_patient_and_encoder unique (id, patient_id, encoder)
);
create unique index a_patient_has_one_current_baseline_per_encoder
    on voice.baselines (patient_id, encoder) where superseded_at is null;
create index baselines_by_encoder on voice.baselines (encoder, dimension);
-- Searches still visit superseded versions until they are vacuumed.
alter table voice.baselines set (autovacuum_vacuum_scale_factor = 0.02);
alter table voice.baselines enable row level security;
comment on table voice.baselines is
    'Immutable versions of each patient''s baseline, which represents the healthy voice. The current version has no superseded_at.';
comment on column voice.baselines.embedding is 'l2_normalize(avg) of the samples.';
comment on column voice.baselines.spread_mean is 'Mean cosine distance of each sample to the mean of the others. Null below two samples.';
comment on column voice.baselines.spread_deviation is 'Sample standard deviation of those distances. Null below two samples.';
comment on column voice.baselines.enrolment_id is 'The enrolment from which it was built. Null: it was built from ordinary calls.';
grant select (
    id, patient_id, encoder, version, sample_count, spread_mean, spread_deviation, created_at, superseded_at
) on voice.baselines to authenticated, service_role;

create table voice.baseline_samples (
    baseline_id bigint not null,
    embedding_id bigint not null,
    patient_id uuid not null,
    encoder text not null,
    constraint baseline_samples_pkey primary key (baseline_id, embedding_id),
    constraint a_sample_is_of_the_baselines_patient_and_encoder
        foreign key (baseline_id, patient_id, encoder)
        references voice.baselines (id, patient_id, encoder) on delete cascade,
    constraint a_sample_is_an_embedding_of_the_patient_and_encoder
        foreign key (embedding_id, patient_id, encoder)
        references voice.embeddings (id, patient_id, encoder) on delete cascade
);
create index baseline_samples_by_embedding on voice.baseline_samples (embedding_id);
alter table voice.baseline_samples enable row level security;
comment on table voice.baseline_samples is 'The embeddings of which each baseline version is the mean.';

create function voice.current_baseline(patient_id uuid, encoder text)
returns voice.baselines
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select baselines.*
    from voice.baselines
    where baselines.patient_id = current_baseline.patient_id
        and baselines.encoder = current_baseline.encoder
        and baselines.superseded_at is null
$$;
comment on function voice.current_baseline is 'Returns the baseline version with which calls are compared, or null if there is none.';
revoke execute on function voice.current_baseline from public;

create function voice.averaged(embedding_ids bigint[])
returns extensions.vector
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select extensions.l2_normalize(extensions.avg(embeddings.embedding))
    from voice.embeddings
    where embeddings.id = any (averaged.embedding_ids)
$$;
comment on function voice.averaged is 'Returns the normalised mean of these embeddings; null for none.';
revoke execute on function voice.averaged from public;

create function voice.build_baseline(patient_id uuid, encoder text, embedding_ids bigint[], enrolment_id uuid)
returns voice.baselines
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    built voice.baselines;
begin
    update voice.baselines
    set superseded_at = clock_timestamp()
    where baselines.patient_id = build_baseline.patient_id
        and baselines.encoder = build_baseline.encoder
        and baselines.superseded_at is null;

    if cardinality(build_baseline.embedding_ids) = 0 then
        return null;
    end if;

    insert into voice.baselines
        (patient_id, encoder, version, embedding, sample_count, spread_mean, spread_deviation, enrolment_id)
    select
        build_baseline.patient_id,
        build_baseline.encoder,
        1 + coalesce((
            select max(earlier.version)
            from voice.baselines as earlier
            where earlier.patient_id = build_baseline.patient_id and earlier.encoder = build_baseline.encoder
        ), 0),
        voice.averaged(build_baseline.embedding_ids),
        cardinality(build_baseline.embedding_ids),
        avg(sample.distance_to_others),
        stddev_samp(sample.distance_to_others),
        build_baseline.enrolment_id
    from (
        select embeddings.embedding operator(extensions.<=>)
            voice.averaged(array_remove(build_baseline.embedding_ids, embeddings.id)) as distance_to_others
        from voice.embeddings
        where embeddings.id = any (build_baseline.embedding_ids)
    ) as sample
    returning * into built;

    insert into voice.baseline_samples (baseline_id, embedding_id, patient_id, encoder)
    select built.id, embedding_id, built.patient_id, built.encoder
    from unnest(build_baseline.embedding_ids) as embedding_id;
    return built;
end
$$;
comment on function voice.build_baseline is
    'Builds the next baseline version as the mean of these embeddings and returns it. Without embeddings, the patient then has no current baseline, and it returns null. The caller has called care.lock_patient.';
revoke execute on function voice.build_baseline from public;

create function voice.sample_ids(baseline_id bigint)
returns bigint[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(baseline_samples.embedding_id order by baseline_samples.embedding_id), '{}')
    from voice.baseline_samples
    where baseline_samples.baseline_id = sample_ids.baseline_id
$$;
comment on function voice.sample_ids is 'Returns the ids of the embeddings of which a baseline version is the mean.';
revoke execute on function voice.sample_ids from public;

create policy caregivers_read_their_patients_baselines on voice.baselines
    for select to authenticated
    using (patient_id = any (array(select care.patients_of_caller('viewer'))));
