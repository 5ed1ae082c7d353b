-- Voice erasure: voice data that are removed with a patient, with a call, or after their retention.

create function voice.erase_traces(patient_id uuid)
returns jsonb
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    counts jsonb;
begin
    with charts as (delete from voice.charts where charts.patient_id = erase_traces.patient_id returning encoder)
    select jsonb_build_object('charts', count(*)) into counts from charts;
    with corrections as (delete from voice.chart_corrections where chart_corrections.patient_id = erase_traces.patient_id returning encoder)
    select counts || jsonb_build_object('chart_corrections', count(*)) into counts from corrections;
    with baselines as (delete from voice.baselines where baselines.patient_id = erase_traces.patient_id returning id)
    select counts || jsonb_build_object('baselines', count(*)) into counts from baselines;
    with embeddings as (delete from voice.embeddings where embeddings.patient_id = erase_traces.patient_id returning id)
    select counts || jsonb_build_object('embeddings', count(*)) into counts from embeddings;
    with usual as (delete from voice.usual_features where usual_features.patient_id = erase_traces.patient_id returning feature)
    select counts || jsonb_build_object('usual_features', count(*)) into counts from usual;
    return counts;
end
$$;
comment on function voice.erase_traces is
    'Removes the embeddings, baselines, charts and usual features of a patient and returns the numbers of removed rows by name. The caller has called care.lock_patient. Called by care.erase_signal.';
revoke execute on function voice.erase_traces from public;

create function voice.on_call_deleted()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    was_judged boolean;
begin
    if care.lock_patient_or_refuse(old.patient_id) then
        -- The charts are computed again without it, and a reference that followed it returns to the baseline.
        delete from public.judgements where judgements.call_log_id = old.id;
        was_judged := found;
        if voice.remove_samples(
            old.patient_id, array(select embeddings.id from voice.embeddings where embeddings.call_log_id = old.id)) = 0
            and was_judged
        then
            perform voice.replay_charts(old.patient_id);
        end if;
        -- A baseline version that was built from this call cannot be separated from it, so it is deleted.
        delete from voice.baselines
        where baselines.patient_id = old.patient_id
            and exists (
                select
                from voice.baseline_samples
                join voice.embeddings on embeddings.id = baseline_samples.embedding_id
                where baseline_samples.baseline_id = baselines.id and embeddings.call_log_id = old.id
            );
    end if;
    return old;
end
$$;
comment on function voice.on_call_deleted is
    'Trigger: removes the samples of a deleted call from baselines. Security definer: roles that delete calls have no privileges on the private schemas.';
revoke execute on function voice.on_call_deleted from public;

create function voice.old_voiceprints(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select embeddings.id::text
    from voice.embeddings
    where embeddings.created_at < care.kept_since('voiceprints', old_voiceprints.at)
        and not exists (
            select
            from voice.baseline_samples
            join voice.baselines on baselines.id = baseline_samples.baseline_id
            where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
        )
    order by embeddings.created_at
    limit old_voiceprints.maximum_rows
$$;
comment on function voice.old_voiceprints is
    'Lists embeddings that have passed their retention and are in no current baseline. Called by care.run_job.';
revoke execute on function voice.old_voiceprints from public;

create function voice.delete_old_voiceprint(embedding_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((select embeddings.patient_id from voice.embeddings where embeddings.id = delete_old_voiceprint.embedding_id::bigint)) then
        return false;
    end if;
    delete from voice.embeddings
    where embeddings.id = delete_old_voiceprint.embedding_id::bigint
        and not exists (
            select
            from voice.baseline_samples
            join voice.baselines on baselines.id = baseline_samples.baseline_id
            where baseline_samples.embedding_id = embeddings.id and baselines.superseded_at is null
        );
    return found;
end
$$;
comment on function voice.delete_old_voiceprint is
    'Deletes such an embedding unless it has become a sample meanwhile. Returns whether it did. Called by care.run_job.';
revoke execute on function voice.delete_old_voiceprint from public;

create function voice.old_baselines(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select baselines.id::text
    from voice.baselines
    where baselines.superseded_at < care.kept_since('voiceprints', old_baselines.at)
        -- With the next call, a chart moves on to the current version.
        and not exists (select from voice.charts where charts.anchor_id = baselines.id)
    order by baselines.superseded_at
    limit old_baselines.maximum_rows
$$;
comment on function voice.old_baselines is 'Lists superseded baseline versions that have passed their retention, and in which no chart is anchored. Called by care.run_job.';
revoke execute on function voice.old_baselines from public;

create function voice.delete_old_baseline(baseline_id text, at timestamptz)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not care.try_lock_patient((select baselines.patient_id from voice.baselines where baselines.id = delete_old_baseline.baseline_id::bigint)) then
        return false;
    end if;
    delete from voice.baselines
    where baselines.id = delete_old_baseline.baseline_id::bigint
        and baselines.superseded_at is not null
        and not exists (select from voice.charts where charts.anchor_id = baselines.id);
    return found;
end
$$;
comment on function voice.delete_old_baseline is 'Deletes a superseded baseline version. Returns whether it did. Called by care.run_job.';
revoke execute on function voice.delete_old_baseline from public;
