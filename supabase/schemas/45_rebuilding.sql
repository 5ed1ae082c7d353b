-- Rebuilding: under an encoder that is not active, each baseline follows the active encoder's. It is made of the same calls, as far as
-- they can be embedded, and is brought to them again whenever those change. So the encoder can become active at once.

create type voice.rebuild_stage as enum (
    'waiting',      -- calls of it are still to be embedded     -> outdated, rebuilt, unrecoverable
    'outdated',       -- all are, but the baseline is not of them -> rebuilt
    'rebuilt',      -- it is made of the same calls             -> waiting, outdated: the active encoder's may change
    'unrecoverable'   -- none of its calls can be embedded: the next healthy call enrols
);
comment on type voice.rebuild_stage is 'How far a baseline is under an encoder that is to become active.';

create view voice.rebuilding
with (security_invoker = true)
as
with wanted as (
    select
        original.patient_id,
        successor.id as encoder,
        original.enrolment_id,
        count(*) as sample_count,
        count(*) filter (where stored.id is null and call_logs.recording_ref is null) as gone_count,
        count(*) filter (where stored.id is null and call_logs.recording_ref is not null and failed.is_so) as failed_count,
        count(*) filter (where stored.id is null and call_logs.recording_ref is not null and failed.is_so is null) as waiting_count,
        coalesce(array_agg(stored.id order by stored.id) filter (where stored.id is not null), '{}') as embedding_ids
    from care.models as active
    join care.models as successor on successor.signal = active.signal and not successor.is_active
    join voice.baselines as original on original.encoder = active.id and original.superseded_at is null
    join voice.baseline_samples on baseline_samples.baseline_id = original.id
    join voice.embeddings as sample on sample.id = baseline_samples.embedding_id
    join public.call_logs on call_logs.id = sample.call_log_id
    left join voice.embeddings as stored on stored.call_log_id = sample.call_log_id and stored.encoder = successor.id
    left join lateral (
        select true as is_so
        from care.checks
        where checks.call_log_id = sample.call_log_id
            and checks.model = successor.id
            and checks.is_backfill
            and checks.state in ('not_assessable', 'skipped', 'dead')
            and checks.reason <> 'no_consent'
        limit 1
    ) as failed on true
    where active.is_active and active.signal = 'voice'
    group by original.patient_id, successor.id, original.enrolment_id
)
select
    wanted.*,
    case
        when wanted.waiting_count > 0 then 'waiting'
        when array(
            select baseline_samples.embedding_id
            from voice.baseline_samples
            where baseline_samples.baseline_id = present.id
            order by baseline_samples.embedding_id
        ) <> wanted.embedding_ids then 'outdated'
        when wanted.embedding_ids = '{}' then 'unrecoverable'
        else 'rebuilt'
    end::voice.rebuild_stage as stage
from wanted
left join voice.baselines as present
    on present.patient_id = wanted.patient_id and present.encoder = wanted.encoder and present.superseded_at is null
union all
-- The active encoder has no baseline (any more): then there is to be none.
select present.patient_id, present.encoder, null, 0, 0, 0, 0, '{}', 'outdated'
from voice.baselines as present
join care.models as successor on successor.id = present.encoder and not successor.is_active
where present.superseded_at is null
    and not exists (
        select
        from voice.baselines as original
        join care.models as active on active.id = original.encoder and active.is_active
        where original.patient_id = present.patient_id and original.superseded_at is null
    );
comment on view voice.rebuilding is
    'The baselines as they are to be under each encoder that is not active: of which embeddings, and what keeps them from being whole. Granted to nobody.';
comment on column voice.rebuilding.sample_count is 'The calls that the active encoder''s baseline is made of.';
comment on column voice.rebuilding.gone_count is 'Of those, how many have no recording any more.';
comment on column voice.rebuilding.failed_count is 'Of those, how many could not be embedded: their check is dead, or not assessable.';
comment on column voice.rebuilding.waiting_count is 'Of those, how many are still to be embedded.';
comment on column voice.rebuilding.embedding_ids is 'The others'', under this encoder.';

create function voice.rebuild_baseline(patient_id uuid, encoder text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted voice.rebuilding;
begin
    select rebuilding.* into wanted
    from voice.rebuilding
    where rebuilding.patient_id = rebuild_baseline.patient_id and rebuilding.encoder = rebuild_baseline.encoder;
    if wanted.stage is distinct from 'outdated' then
        return false;
    end if;
    perform voice.build_baseline(wanted.patient_id, wanted.encoder, wanted.embedding_ids, wanted.enrolment_id);
    return true;
end
$$;
comment on function voice.rebuild_baseline is
    'Brings a patient''s baseline under an encoder that is not active to the calls of the active one''s, once they are embedded; whether it changed. The caller holds care.lock_patient.';
revoke execute on function voice.rebuild_baseline from public;

create function voice.rebuild_baselines(encoder text, maximum_rows integer)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id uuid;
    rebuilt integer := 0;
begin
    for found_id in
        select patients.id
        from voice.rebuilding
        join public.patients on patients.id = rebuilding.patient_id
        where rebuilding.encoder = rebuild_baselines.encoder and rebuilding.stage = 'outdated'
        limit rebuild_baselines.maximum_rows
        for no key update of patients skip locked
    loop
        rebuilt := rebuilt + voice.rebuild_baseline(found_id, rebuild_baselines.encoder)::integer;
    end loop;
    return rebuilt;
end
$$;
comment on function voice.rebuild_baselines is
    'Brings up to so many baselines to the calls of the active encoder''s; how many changed: those whose samples changed after they were embedded, or can be embedded no more. Definer: the service touches no table. Called by `retrocare backfill`.';
revoke execute on function voice.rebuild_baselines from public;
grant execute on function voice.rebuild_baselines to retrocare_service;
