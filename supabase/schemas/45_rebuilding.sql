-- Rebuilding: under an encoder that is not active, each baseline follows the active encoder's. It is built from the same calls, as
-- far as they can be embedded, and rebuilt whenever those change, so that the encoder can become active at any time.

create type voice.rebuild_stage as enum (
    'waiting',      -- some of its calls are not yet embedded      -> outdated, rebuilt, unrecoverable
    'outdated',       -- all are embedded, but not in the baseline   -> rebuilt
    'rebuilt',      -- built from the same calls                   -> waiting, outdated: the active encoder's may change
    'unrecoverable'   -- none of its calls can be embedded: the next healthy call enrols
);
comment on type voice.rebuild_stage is 'The progress of a baseline under an encoder that is not active.';

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
-- If the active encoder has no baseline, or no longer has one, there must be none here.
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
    'What the baselines under each encoder that is not active must consist of, and what is still missing. No role has privileges on it.';
comment on column voice.rebuilding.sample_count is 'The number of calls in the active encoder''s baseline.';
comment on column voice.rebuilding.gone_count is 'How many of those calls have no recording any more.';
comment on column voice.rebuilding.failed_count is
    'How many of those calls could not be embedded: their check is dead, skipped or not assessable.';
comment on column voice.rebuilding.waiting_count is 'How many of those calls are not yet embedded.';
comment on column voice.rebuilding.embedding_ids is 'The embeddings of the remaining calls under this encoder.';

create function voice.rebuild_baseline(patient_id uuid, encoder text)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted voice.rebuilding;
    present constant voice.baselines := voice.current_baseline(rebuild_baseline.patient_id, rebuild_baseline.encoder);
begin
    select rebuilding.* into wanted
    from voice.rebuilding
    where rebuilding.patient_id = rebuild_baseline.patient_id and rebuilding.encoder = rebuild_baseline.encoder;
    if wanted.stage is distinct from 'outdated' then
        return false;
    end if;
    perform voice.build_baseline(wanted.patient_id, wanted.encoder, wanted.embedding_ids, wanted.enrolment_id);
    if present.enrolment_id is distinct from wanted.enrolment_id then
        perform voice.restart_chart(wanted.patient_id, wanted.encoder);
    end if;
    return true;
end
$$;
comment on function voice.rebuild_baseline is
    'Rebuilds a patient''s baseline under an encoder that is not active from the calls of the active encoder''s, once they are embedded. Returns whether it changed. The caller has called care.lock_patient.';
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
    'Rebuilds up to maximum_rows outdated baselines under this encoder and returns how many changed. A baseline is outdated if its samples changed after they were embedded, or can no longer be embedded. Security definer: the service has no privileges on tables. Called by `retrocare backfill`.';
revoke execute on function voice.rebuild_baselines from public;
grant execute on function voice.rebuild_baselines to retrocare_service;
