-- Enrolment: which recordings become samples of a baseline, and which leave it.

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
        and not voice.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
$$;
comment on function voice.enrolment_samples is 'The embeddings of one enrolment''s recordings, less those of days that were flagged since.';
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
            -- What was added to it meanwhile stays in it.
            samples := array(select distinct id from unnest(samples || voice.sample_ids(present.id)) as id order by id);
        elsif present.sample_count >= policy.baseline_minimum_samples
            and cardinality(samples) < policy.baseline_minimum_samples
        then
            -- A complete baseline stays in use until the new one is complete too.
            return false;
        end if;
    end if;
    perform voice.build_baseline(call.patient_id, policy.encoder, samples, call.enrolment_id);
    return true;
end
$$;
comment on function voice.enrol is
    'Makes a baseline of a first healthy call, or of the recordings of one enrolment so far; whether the sample is in use now. The caller holds voice.lock_patient.';
revoke execute on function voice.enrol from public;

create function voice.add_sample(baseline voice.baselines, embedding_id bigint, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if baseline.sample_count >= policy.baseline_target_samples then
        return false;
    end if;
    perform voice.build_baseline(baseline.patient_id, baseline.encoder,
        voice.sample_ids(baseline.id) || add_sample.embedding_id, baseline.enrolment_id);
    return true;
end
$$;
comment on function voice.add_sample is
    'Adds a healthy, low call to the baseline until it has its target; whether it did. The caller holds voice.lock_patient.';
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
    return removed;
end
$$;
comment on function voice.remove_samples is
    'Rebuilds the patient''s current baselines without these samples; how many left. With none left, the next healthy call enrols. The caller holds voice.lock_patient.';
revoke execute on function voice.remove_samples from public;

create function voice.withdraw_samples(patient_id uuid)
returns integer
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform voice.lock_patient(withdraw_samples.patient_id);
    return voice.remove_samples(withdraw_samples.patient_id, array(
        select embeddings.id
        from voice.embeddings
        join public.call_logs on call_logs.id = embeddings.call_log_id
        where embeddings.patient_id = withdraw_samples.patient_id
            and voice.is_unwell_at(call_logs.patient_id, call_logs."timestamp")
    ));
end
$$;
comment on function voice.withdraw_samples is
    'Rebuilds the patient''s current baselines without the samples that a health flag covers; how many left.';
revoke execute on function voice.withdraw_samples from public;

create function voice.lock_flagged_patient()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        perform voice.lock_patient(new.patient_id);
    else
        perform voice.lock_patient_or_refuse(new.patient_id);
    end if;
    return new;
end
$$;
comment on function voice.lock_flagged_patient is
    'Trigger: a flag rebuilds baselines, so its patient is locked before anything else. Definer: whoever flags may not lock patients.';
revoke execute on function voice.lock_flagged_patient from public;

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
comment on function voice.on_health_flag is 'Trigger: a flag that arrives late withdraws the samples it covers. Definer: whoever flags may not read voice.';
revoke execute on function voice.on_health_flag from public;

create function voice.refuse_change()
returns trigger
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = '55000',
        message = format('Rows of %I.%I never change', tg_table_schema, tg_table_name),
        hint = 'A new version is a new row.';
end
$$;
comment on function voice.refuse_change is 'Trigger: refuses an update of what must stay as it was written.';
revoke execute on function voice.refuse_change from public;
