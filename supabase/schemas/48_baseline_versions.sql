-- Baseline versions: what an operator can see of them, how to restore an earlier one, and how to remove a wrong sample.

create view public.patient_voice_baseline
with (security_invoker = true)
as
select
    baselines.patient_id,
    baselines.encoder,
    baselines.version,
    baselines.sample_count,
    policies.baseline_minimum_samples,
    case policies.rule when 'calibrated' then policies.calibrated_target_samples else policies.baseline_target_samples end
        as baseline_target_samples,
    baselines.sample_count < policies.baseline_minimum_samples as is_provisional,
    baselines.spread_mean,
    baselines.spread_deviation,
    baselines.created_at
from voice.baselines
join voice.policies on policies.encoder = baselines.encoder
where baselines.superseded_at is null;
comment on view public.patient_voice_baseline is
    'For caregivers: the progress of each patient''s baseline, one row per encoder, without the embedding.';
comment on column public.patient_voice_baseline.version is 'Counts every change of the baseline.';
comment on column public.patient_voice_baseline.is_provisional is
    'Whether there are fewer samples than baseline_minimum_samples. Scores then count, but are marked as provisional.';
comment on column public.patient_voice_baseline.spread_mean is
    'How much this voice varies when well: mean cosine distance of each sample to the mean of the others. Null below two samples.';
comment on column public.patient_voice_baseline.spread_deviation is 'Standard deviation of those distances. Null below two samples.';
comment on column public.patient_voice_baseline.created_at is 'When this version was built.';
revoke all on public.patient_voice_baseline from anon, authenticated, service_role;
grant select on public.patient_voice_baseline to authenticated, service_role;

create function voice.baseline_versions(patient_id uuid, encoder text)
returns table (
    version integer,
    is_current boolean,
    sample_count integer,
    kept_samples bigint,
    call_log_ids uuid[],
    created_at timestamptz,
    superseded_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        baselines.version,
        baselines.superseded_at is null,
        baselines.sample_count,
        count(embeddings.id),
        coalesce(
            array_agg(embeddings.call_log_id order by embeddings.id) filter (where embeddings.id is not null), '{}'),
        baselines.created_at,
        baselines.superseded_at
    from voice.baselines
    left join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
    left join voice.embeddings on embeddings.id = baseline_samples.embedding_id
    where baselines.patient_id = baseline_versions.patient_id
        and baselines.encoder = coalesce(baseline_versions.encoder, voice.active_encoder())
    group by baselines.id
    order by baselines.version desc
$$;
comment on function voice.baseline_versions is
    'Returns the versions of a patient''s baseline under this encoder (null: the active one), newest first, with the calls from which they were built, as far as these are still stored. Called by `retrocare patient baseline`.';
revoke execute on function voice.baseline_versions from public;
grant execute on function voice.baseline_versions to retrocare_service;

create function voice.restore_baseline(patient_id uuid, version integer)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    earlier voice.baselines;
    healthy bigint[];
    restored voice.baselines;
begin
    -- Locked first, so that the active encoder, whose baseline counts, cannot change meanwhile.
    lock table care.models in row exclusive mode;
    perform care.lock_patient(restore_baseline.patient_id);
    select baselines.* into earlier
    from voice.baselines
    where baselines.patient_id = restore_baseline.patient_id
        and baselines.encoder = voice.active_encoder()
        and baselines.version = restore_baseline.version;
    healthy := array(
        select embeddings.id
        from voice.baseline_samples
        join voice.embeddings on embeddings.id = baseline_samples.embedding_id
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where baseline_samples.baseline_id = earlier.id
            and not care.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
        order by embeddings.id
    );
    if earlier.id is null then
        raise exception using
            errcode = 'PT409',
            message = format('The patient''s baseline has no version %s', restore_baseline.version),
            hint = 'List the versions with `retrocare patient baseline`.';
    elsif earlier.superseded_at is null then
        raise exception using
            errcode = 'PT409',
            message = format('Version %s is already the current version', restore_baseline.version),
            hint = 'There is nothing to restore.';
    elsif healthy = '{}' then
        raise exception using
            errcode = 'PT409',
            message = format('No sample of version %s is left', restore_baseline.version),
            hint = 'Its samples were erased, or are of days that a health flag covers. Enrol the patient anew.';
    end if;
    restored := voice.build_baseline(earlier.patient_id, earlier.encoder, healthy, earlier.enrolment_id);
    perform voice.restart_chart(earlier.patient_id, earlier.encoder);
    return restored.version;
end
$$;
comment on function voice.restore_baseline is
    'Builds a new version from the samples of an earlier one, except those of days that have since been flagged, and returns its number. The chart restarts. Raises PT409, RV002. Called by `retrocare patient baseline --restore`.';
revoke execute on function voice.restore_baseline from public;
grant execute on function voice.restore_baseline to retrocare_service;

create function voice.withdraw_sample(patient_id uuid, call_log_id uuid)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    rebuilt integer;
begin
    -- Locked first, so that the active encoder, whose baseline counts, cannot change meanwhile.
    lock table care.models in row exclusive mode;
    perform care.lock_patient(withdraw_sample.patient_id);
    -- A call is at most one sample of a baseline.
    rebuilt := voice.remove_samples(
        withdraw_sample.patient_id,
        array(select embeddings.id from voice.embeddings where embeddings.call_log_id = withdraw_sample.call_log_id));
    if rebuilt = 0 then
        raise exception using
            errcode = 'RV003',
            message = format('The patient''s current baseline has no sample of the call %s', withdraw_sample.call_log_id),
            hint = 'List the calls of the baseline with `retrocare patient baseline`.';
    end if;
    return rebuilt;
end
$$;
comment on function voice.withdraw_sample is
    'Rebuilds the patient''s current baselines without the sample of that call and returns how many changed. If no samples are left, the next healthy call enrols. Raises RV002, RV003. Called by `retrocare patient withdraw-sample`.';
revoke execute on function voice.withdraw_sample from public;
grant execute on function voice.withdraw_sample to retrocare_service;

create function voice.compare_with_baseline(patient_id uuid, encoder text, embedding extensions.vector, snr_db double precision)
returns table (
    baseline_version integer,
    sample_count integer,
    anomaly_score double precision,
    raw_similarity double precision,
    severity public.anomaly_severity,
    is_unlike boolean
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    policy voice.policies := voice.policy(compare_with_baseline.encoder);
    present voice.baselines := voice.current_baseline(compare_with_baseline.patient_id, compare_with_baseline.encoder);
    judged voice.comparison;
    thresholds constant care.thresholds := care.thresholds_for(
        compare_with_baseline.encoder, compare_with_baseline.patient_id);
begin
    if present.id is null or present.sample_count < policy.baseline_minimum_samples then
        return;
    end if;
    judged := voice.judge(present.embedding, compare_with_baseline.embedding, compare_with_baseline.snr_db, null, policy, thresholds);
    return query select
        present.version, present.sample_count, judged.score, judged.raw_similarity, judged.severity,
        -- Uses the score before adjustments: a noisy line must not make another person's voice pass as this one.
        judged.anomaly > thresholds.medium_above;
end
$$;
comment on function voice.compare_with_baseline is
    'Compares an embedding with a patient''s baseline and returns the result; no row if the baseline is not complete. Stores nothing. Raises RV004, RV005. Called by `retrocare enroll` before it replaces anything.';
revoke execute on function voice.compare_with_baseline from public;
grant execute on function voice.compare_with_baseline to retrocare_service;

create function voice.covered_samples(patient_id uuid, since timestamptz)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from voice.baselines
    join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
    join voice.embeddings on embeddings.id = baseline_samples.embedding_id
    join public.call_logs on call_logs.id = embeddings.call_log_id
    where baselines.patient_id = covered_samples.patient_id
        and baselines.superseded_at is null
        and baselines.encoder = voice.active_encoder()
        and call_logs."timestamp" >= covered_samples.since
$$;
comment on function voice.covered_samples is
    'Returns how many samples would leave the current baseline if the patient had been unwell since that time. Called by `retrocare patient flag`.';
revoke execute on function voice.covered_samples from public;
grant execute on function voice.covered_samples to retrocare_service;
