-- Backfill: stored recordings are embedded by a new encoder, or because an archive was imported. The work is queued in care.checks
-- with a lower priority than calls. It makes embeddings and baselines, but no logs or alerts, and does not change calls.

create function voice.open_backfill(encoder text, is_history boolean, maximum_rows integer)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    is_active boolean := open_backfill.encoder is not distinct from voice.active_encoder();
    wanted_ids uuid[];
    opened integer;
begin
    perform voice.policy(open_backfill.encoder);
    perform pg_advisory_xact_lock(hashtext('voice.open_backfill')); -- serialises callers, so that each call is queued once
    wanted_ids := array(with
        candidates as (
            -- Activation depends on these: the samples of the present baselines, and enrolments in progress.
            select embeddings.call_log_id, true as is_sample
            from voice.baselines
            join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
            join voice.embeddings on embeddings.id = baseline_samples.embedding_id
            where not is_active and baselines.encoder = voice.active_encoder() and baselines.superseded_at is null
            union all
            select call_logs.id, true from public.call_logs where not is_active and call_logs.enrolment_id is not null
            union all
            select call_logs.id, false from public.call_logs where is_active and call_logs.source = 'archive'
            union all
            select call_logs.id, false from public.call_logs where open_backfill.is_history
        ),
        wanted as (
            select candidates.call_log_id, bool_or(candidates.is_sample) as is_sample
            from candidates
            group by candidates.call_log_id
        ),
        kept as (
            select call_logs.id, wanted.is_sample, call_logs."timestamp"
            from wanted
            join public.call_logs on call_logs.id = wanted.call_log_id
            join public.patients on patients.id = call_logs.patient_id
            where call_logs.recording_ref is not null
                and patients.voice_consent_at is not null
                and call_logs.check_state is distinct from 'skipped'
                and not exists (
                    select from voice.embeddings
                    where embeddings.call_log_id = call_logs.id and embeddings.encoder = open_backfill.encoder
                )
                and not exists (
                    select from care.checks
                    where checks.call_log_id = call_logs.id
                        and checks.signal = 'voice'
                        and case when checks.is_backfill
                            -- Only once each: a recording that cannot be embedded is not retried for ever.
                            then checks.model = open_backfill.encoder and checks.reason is distinct from 'no_consent'
                            -- A call that waits to be judged is judged first, and backfilled later.
                            else checks.state in ('queued', 'leased') end
                )
            order by wanted.is_sample desc, call_logs."timestamp" desc
            limit open_backfill.maximum_rows
        )
        select kept.id from kept order by kept.is_sample desc, kept."timestamp" desc
    );
    -- Patients are always locked in the same order, so that two callers cannot deadlock.
    perform from public.patients
    where patients.id in (select call_logs.patient_id from public.call_logs where call_logs.id = any (wanted_ids))
    order by patients.id
    for no key update;
    insert into care.checks (call_log_id, patient_id, signal, model, is_backfill, run_at)
    select call_logs.id, call_logs.patient_id, 'voice', open_backfill.encoder, true,
        case when is_active and call_logs.source = 'archive' then least(now(), call_logs."timestamp") else now() end
    from unnest(wanted_ids) with ordinality as wanted (id, turn)
    join public.call_logs on call_logs.id = wanted.id
    join public.patients on patients.id = call_logs.patient_id
    -- Skip what was erased while this transaction waited for the locks.
    where call_logs.recording_ref is not null
        and patients.voice_consent_at is not null
        and not exists (
            select from care.checks
            where checks.call_log_id = call_logs.id
                and checks.signal = 'voice'
                and checks.state in ('queued', 'leased')
                and (not checks.is_backfill or checks.model = open_backfill.encoder)
        )
    order by wanted.turn;
    get diagnostics opened = row_count;
    return opened;
end
$$;
comment on function voice.open_backfill is
    'Queues up to maximum_rows recordings that this encoder has not embedded, once each, and returns how many. For the active encoder these are archived calls; for another encoder, the samples of the active encoder''s baselines. If is_history is true, all other recordings follow, newest first. Raises RV004. Security definer: the service has no privileges on tables. Called by `retrocare backfill`.';
revoke execute on function voice.open_backfill from public;
grant execute on function voice.open_backfill to retrocare_service;

create function voice.waiting_backfill(encoder text)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from care.checks
    where checks.model = waiting_backfill.encoder and checks.is_backfill and checks.state in ('queued', 'leased')
$$;
comment on function voice.waiting_backfill is
    'Returns how many backfill checks of this encoder have not ended. Security definer for the same reason as voice.open_backfill. Called by `retrocare backfill` every few seconds.';
revoke execute on function voice.waiting_backfill from public;
grant execute on function voice.waiting_backfill to retrocare_service;

create function voice.backfill_status(encoder text)
returns table (
    encoder text, is_active boolean, embedded bigint, not_assessable bigint, skipped bigint, dead bigint, waiting bigint,
    baselines bigint, rebuilt bigint, outdated bigint, unrecoverable bigint
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select encoders.id, models.is_active, done.*, built.*
    from voice.encoders
    join care.models on models.id = encoders.id
    cross join lateral (
        select
            count(*) filter (where checks.state = 'embedded'),
            count(*) filter (where checks.state = 'not_assessable'),
            count(*) filter (where checks.state = 'skipped'),
            count(*) filter (where checks.state = 'dead'),
            count(*) filter (where checks.state in ('queued', 'leased'))
        from care.checks
        where checks.model = encoders.id and checks.is_backfill
    ) as done
    cross join lateral (
        select
            count(*),
            count(*) filter (where rebuilding.stage = 'rebuilt'),
            count(*) filter (where rebuilding.stage in ('waiting', 'outdated')),
            count(*) filter (where rebuilding.stage = 'unrecoverable')
        from voice.rebuilding
        where rebuilding.encoder = encoders.id
    ) as built
    where encoders.id = backfill_status.encoder
$$;
comment on function voice.backfill_status is
    'Returns the progress of a backfill: its checks by state, and how many baselines of the active encoder are rebuilt under this one. Security definer for the same reason as voice.open_backfill. Called by `retrocare backfill`.';
revoke execute on function voice.backfill_status from public;
grant execute on function voice.backfill_status to retrocare_service;

create function voice.unrecoverable_baselines(encoder text)
returns table (patient_id uuid, sample_count bigint, gone_count bigint, failed_count bigint)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select rebuilding.patient_id, rebuilding.sample_count, rebuilding.gone_count, rebuilding.failed_count
    from voice.rebuilding
    where rebuilding.encoder = unrecoverable_baselines.encoder and rebuilding.stage = 'unrecoverable'
    order by rebuilding.patient_id
$$;
comment on function voice.unrecoverable_baselines is
    'Returns the patients whose baseline cannot be rebuilt under this encoder, and why: of sample_count calls, gone_count have no recording any more and failed_count could not be embedded. Security definer for the same reason as voice.open_backfill. Called by `retrocare backfill`.';
revoke execute on function voice.unrecoverable_baselines from public;
grant execute on function voice.unrecoverable_baselines to retrocare_service;
