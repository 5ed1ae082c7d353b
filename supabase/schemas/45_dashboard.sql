-- The dashboard reads views. They run with the reader's own rights; a view over `voice` shows the columns that are granted
-- there, never a vector.

create view public.patient_voice_baseline
with (security_invoker = true)
as
select
    baselines.patient_id,
    baselines.encoder,
    baselines.version,
    baselines.sample_count,
    policies.baseline_minimum_samples,
    policies.baseline_target_samples,
    baselines.sample_count < policies.baseline_minimum_samples as is_provisional,
    baselines.spread_mean,
    baselines.spread_deviation,
    baselines.created_at
from voice.baselines
join voice.policies on policies.encoder = baselines.encoder
where baselines.superseded_at is null;
comment on view public.patient_voice_baseline is
    'For caregivers: how far each patient''s baseline has come, one row per encoder. Without the vector.';
comment on column public.patient_voice_baseline.version is 'Counts every change of the baseline.';
comment on column public.patient_voice_baseline.is_provisional is 'Fewer samples than baseline_minimum_samples: scores count, marked.';
comment on column public.patient_voice_baseline.spread_mean is
    'How much this voice varies when well: mean cosine distance of each sample to the mean of the others; null below two samples.';
comment on column public.patient_voice_baseline.spread_deviation is 'Standard deviation of those distances; null below two.';
comment on column public.patient_voice_baseline.created_at is 'When this version was made.';

grant select (
    id, patient_id, encoder, version, sample_count, spread_mean, spread_deviation, created_at, superseded_at
) on voice.baselines to authenticated, service_role;
grant select (encoder, baseline_minimum_samples, baseline_target_samples) on voice.policies to authenticated, service_role;
revoke all on public.patient_voice_baseline from anon, authenticated, service_role;
grant select on public.patient_voice_baseline to authenticated, service_role;

create function voice.patient_list()
returns table (
    id uuid,
    name text,
    timezone text,
    voice_consent_at timestamptz,
    open_flags text[],
    sample_count integer,
    is_provisional boolean,
    last_call_at timestamptz,
    last_anomaly_score double precision,
    alert_level public.alert_level
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        patients.id,
        patients.name,
        patients.timezone,
        patients.voice_consent_at,
        patients.flags || array(
            select health_flags.flag
            from public.health_flags
            where health_flags.patient_id = patients.id
                and health_flags.started_at <= now()
                and (health_flags.resolved_at is null or health_flags.resolved_at > now())
            order by health_flags.started_at
        ),
        baseline.sample_count,
        baseline.is_provisional,
        (select max(call_logs."timestamp") from public.call_logs where call_logs.patient_id = patients.id),
        last_log.anomaly_score,
        alert.level
    from public.patients
    left join public.patient_voice_baseline as baseline
        on baseline.patient_id = patients.id and baseline.encoder = voice.active_encoder()
    left join lateral (
        select voice_anomaly_logs.anomaly_score
        from public.voice_anomaly_logs
        where voice_anomaly_logs.patient_id = patients.id
        order by voice_anomaly_logs."timestamp" desc
        limit 1
    ) as last_log on true
    left join public.caregiver_alerts as alert on alert.patient_id = patients.id and alert.resolved_at is null
    order by patients.created_at, patients.id
$$;
comment on function voice.patient_list is 'One row per patient, for the operator. Called by `retrocare patient list`.';
revoke execute on function voice.patient_list from public;
grant execute on function voice.patient_list to retrocare_service;

create function voice.row_counts(patient_id uuid)
returns table (relation text, row_count bigint, detail text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select 'public.call_logs', count(*), string_agg(distinct check_state::text, ', ' order by check_state::text)
    from public.call_logs where call_logs.patient_id = row_counts.patient_id
    union all
    select 'voice.embeddings', count(*), 'vectors of ' || max(embeddings.dimension) || ' dimensions'
    from voice.embeddings where embeddings.patient_id = row_counts.patient_id
    union all
    select 'voice.baselines', count(*), 'versions; the current one has '
        || max(baselines.sample_count) filter (where superseded_at is null) || ' samples'
    from voice.baselines where baselines.patient_id = row_counts.patient_id
    union all
    select 'public.voice_anomaly_logs', count(*), string_agg(distinct severity::text, ', ' order by severity::text)
    from public.voice_anomaly_logs where voice_anomaly_logs.patient_id = row_counts.patient_id
    union all
    select 'public.daily_checkins', count(*), 'worst day ' || round(max(anomaly_score)::numeric, 2)
    from public.daily_checkins where daily_checkins.patient_id = row_counts.patient_id
    union all
    select 'public.caregiver_alerts', count(*), string_agg(level || ', ' || state || ', repeated ' || repeat_count, '; ')
    from public.caregiver_alerts where caregiver_alerts.patient_id = row_counts.patient_id
$$;
comment on function voice.row_counts is 'What the database holds of one patient, table by table. Called by `retrocare demo`.';
revoke execute on function voice.row_counts from public;
grant execute on function voice.row_counts to retrocare_service;
