-- Enrolment: which recordings become samples of a baseline, and which are removed from it.

create function voice.enrolment_samples(enrolment_id uuid, encoder text)
returns bigint[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(embeddings.id order by embeddings.id), '{}')
    from public.call_logs
    join voice.embeddings on embeddings.call_log_id = call_logs.id
    where call_logs.enrolment_id = enrolment_samples.enrolment_id
        and embeddings.encoder = enrolment_samples.encoder
        and not care.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
$$;
comment on function voice.enrolment_samples is
    'Returns the embeddings of one enrolment''s recordings, except those of days that have since been flagged.';
revoke execute on function voice.enrolment_samples from public;

create function voice.enrol(call public.call_logs, embedding_id bigint, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.baselines := voice.current_baseline(call.patient_id, policy.encoder);
    samples bigint[] := array[enrol.embedding_id];
begin
    if call.enrolment_id is not null then
        samples := voice.enrolment_samples(call.enrolment_id, policy.encoder);
        if present.enrolment_id = call.enrolment_id then
            -- Keep the samples that have been added to it since.
            samples := array(select distinct id from unnest(samples || voice.sample_ids(present.id)) as id order by id);
        elsif present.sample_count >= policy.baseline_minimum_samples
            and cardinality(samples) < policy.baseline_minimum_samples
        then
            -- A complete baseline stays in use until the new one is complete.
            return false;
        end if;
    end if;
    perform voice.build_baseline(call.patient_id, policy.encoder, samples, call.enrolment_id);
    if present.enrolment_id is distinct from call.enrolment_id then
        perform voice.restart_chart(call.patient_id, policy.encoder);
    end if;
    return true;
end
$$;
comment on function voice.enrol is
    'Builds a baseline from a first healthy call, or from the recordings of an enrolment so far. Returns whether the sample is now in use. The caller has called care.lock_patient.';
revoke execute on function voice.enrol from public;

create function voice.add_sample(baseline voice.baselines, embedding_id bigint, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if baseline.sample_count >= voice.target_samples(policy) then
        return false;
    end if;
    perform voice.build_baseline(baseline.patient_id, baseline.encoder,
        voice.sample_ids(baseline.id) || add_sample.embedding_id, baseline.enrolment_id);
    return true;
end
$$;
comment on function voice.add_sample is
    'Adds the sample of a healthy call with a low score to the baseline unless it has enough. Returns whether it did. The caller has called care.lock_patient.';
revoke execute on function voice.add_sample from public;

create function voice.remove_samples(patient_id uuid, embedding_ids bigint[])
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    affected record;
    removed integer := 0;
begin
    for affected in
        select
            baselines.encoder,
            baselines.enrolment_id,
            count(*) filter (where baseline_samples.embedding_id = any (remove_samples.embedding_ids)) as removed_count,
            coalesce(array_agg(baseline_samples.embedding_id order by baseline_samples.embedding_id)
                filter (where baseline_samples.embedding_id <> all (remove_samples.embedding_ids)), '{}') as kept_ids
        from voice.baselines
        join voice.baseline_samples on baseline_samples.baseline_id = baselines.id
        where baselines.patient_id = remove_samples.patient_id and baselines.superseded_at is null
        group by baselines.id
    loop
        if affected.removed_count > 0 then
            removed := removed + affected.removed_count;
            perform voice.build_baseline(remove_samples.patient_id, affected.encoder, affected.kept_ids, affected.enrolment_id);
        end if;
    end loop;
    if removed > 0 then
        perform voice.replay_charts(remove_samples.patient_id);
    end if;
    return removed;
end
$$;
comment on function voice.remove_samples is
    'Rebuilds the patient''s current baselines without these samples, computes their charts again, and returns how many were removed. If none are left, the next healthy call enrols. The caller has called care.lock_patient.';
revoke execute on function voice.remove_samples from public;

create function voice.withdraw_samples(patient_id uuid)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    perform care.lock_patient(withdraw_samples.patient_id);
    removed := voice.remove_samples(withdraw_samples.patient_id, array(
        select embeddings.id
        from voice.embeddings
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where embeddings.patient_id = withdraw_samples.patient_id
            and care.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
    ));
    if removed = 0 and exists (
        select from public.voice_anomaly_logs
        where voice_anomaly_logs.patient_id = withdraw_samples.patient_id
            and voice_anomaly_logs.is_learned
            and care.is_unwell_at(voice_anomaly_logs.patient_id, voice_anomaly_logs."timestamp")
    ) then
        perform voice.replay_charts(withdraw_samples.patient_id);
    end if;
    return removed;
end
$$;
comment on function voice.withdraw_samples is
    'Rebuilds the patient''s current baselines without samples of times that a health flag covers, and returns how many were removed. Charts forget what they learned in that time.';
revoke execute on function voice.withdraw_samples from public;

create function voice.on_health_flag()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform voice.withdraw_samples(new.patient_id);
    return null;
end
$$;
comment on function voice.on_health_flag is
    'Trigger: withdraws the samples that a newly added or changed health flag covers. Security definer: roles that write health flags have no privileges on the private schemas.';
revoke execute on function voice.on_health_flag from public;

create function voice.enrol_archived(patient public.patients, call public.call_logs, stored voice.embeddings, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.baselines := voice.current_baseline(patient.id, stored.encoder);
begin
    if not care.is_healthy_at(patient, call."timestamp") then
        return false;
    elsif present.id is null then
        perform voice.build_baseline(patient.id, stored.encoder, array[stored.id], null);
        return true;
    elsif exists (
        select
        from voice.baseline_samples
        join voice.embeddings on embeddings.id = baseline_samples.embedding_id
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where baseline_samples.baseline_id = present.id and (call_logs.source <> 'archive' or embeddings.id = stored.id)
    ) then
        return false;
    end if;
    return care.severity(
            voice.anomaly(voice.raw_similarity(present.embedding, stored.embedding)), care.thresholds_for(policy.encoder, patient.id)) = 'low'
        and voice.add_sample(present, stored.id, policy);
end
$$;
comment on function voice.enrol_archived is
    'Adds an archived call to a baseline that contains archived calls only, by the rule of ordinary calls: the first healthy call builds the baseline, then healthy calls that sound like it are added until it has enough. A baseline that contains any other call stays unchanged. Returns whether the call became a sample. The caller has called care.lock_patient.';
revoke execute on function voice.enrol_archived from public;
