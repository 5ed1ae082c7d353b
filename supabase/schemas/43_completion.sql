-- Completion: the recording became a vector. It is stored, and the call enrols or is scored; or only stored, where a backfill
-- asked for it.

create function voice.check_detail(snr_db double precision, added_to_baseline boolean)
returns jsonb
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('snr_db', check_detail.snr_db, 'added_to_baseline', check_detail.added_to_baseline)
$$;
comment on function voice.check_detail is 'What voice keeps in care.checks.detail.';
revoke execute on function voice.check_detail from public;

create function voice.end_check(
    check_id bigint, state public.check_state, reason public.check_reason, quality jsonb default null, detail jsonb default null
)
returns voice.check_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform care.finish_check(end_check.check_id, end_check.state, end_check.reason, end_check.quality, end_check.detail);
    return voice.stored_result(end_check.check_id);
end
$$;
comment on function voice.end_check is 'Writes a check''s end, and returns it. The caller holds care.leased_check.';
revoke execute on function voice.end_check from public;

create function voice.store_embedding(
    held care.checks,
    embedding extensions.vector,
    audio_sha256 bytea,
    speech_seconds double precision,
    snr_db double precision,
    quality jsonb
)
returns voice.embeddings
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    kept voice.embeddings;
begin
    select embeddings.* into kept
    from voice.embeddings
    where embeddings.encoder = held.model
        and (embeddings.call_log_id = held.call_log_id
            or (embeddings.patient_id = held.patient_id and embeddings.audio_sha256 = store_embedding.audio_sha256))
    order by embeddings.call_log_id = held.call_log_id desc
    limit 1;
    if not found then
        insert into voice.embeddings
            (patient_id, call_log_id, encoder, embedding, audio_sha256, speech_seconds, snr_db, quality)
        values (held.patient_id, held.call_log_id, held.model, store_embedding.embedding, store_embedding.audio_sha256,
            store_embedding.speech_seconds, store_embedding.snr_db, store_embedding.quality)
        returning * into kept;
    end if;
    return kept;
end
$$;
comment on function voice.store_embedding is
    'The call''s voiceprint: this one, unless a backfill, the call''s own check or an archived call of the same bytes has stored one. The caller holds care.leased_check.';
revoke execute on function voice.store_embedding from public;

create function voice.requeue_under_active_encoder(check_id bigint)
returns voice.check_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update care.checks
    set model = voice.active_encoder(),
        state = 'queued',
        lease_token = null,
        leased_until = null,
        worker = null
    where checks.id = requeue_under_active_encoder.check_id;
    return voice.stored_result(requeue_under_active_encoder.check_id);
end
$$;
comment on function voice.requeue_under_active_encoder is 'Queues a check for the encoder that has become active. The caller holds care.leased_check.';
revoke execute on function voice.requeue_under_active_encoder from public;

create function voice.build_from_backfill(patient public.patients, call public.call_logs, stored voice.embeddings, policy voice.policies)
returns boolean
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if stored.encoder = voice.active_encoder() then
        return call.source = 'archive' and voice.enrol_archived(patient, call, stored, policy);
    end if;
    perform voice.rebuild_baseline(patient.id, stored.encoder);
    return exists (
        select
        from voice.baseline_samples
        join voice.baselines on baselines.id = baseline_samples.baseline_id
        where baseline_samples.embedding_id = stored.id and baselines.superseded_at is null
    );
end
$$;
comment on function voice.build_from_backfill is
    'What a backfilled voiceprint does to baselines: under the active encoder an archive''s may make one, under another it follows the active one''s. Whether the call is a sample. The caller holds care.lock_patient. Called by voice.complete_check.';
revoke execute on function voice.build_from_backfill from public;

create function voice.complete_check(
    check_id bigint,
    lease_token uuid,
    embedding extensions.vector,
    audio_sha256 bytea,
    speech_seconds double precision,
    snr_db double precision,
    quality jsonb,
    at timestamptz default clock_timestamp()
)
returns voice.check_result
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held care.checks;
    policy voice.policies;
    patient public.patients;
    call public.call_logs;
    baseline voice.baselines;
    stored voice.embeddings;
    logged public.voice_anomaly_logs;
    is_healthy boolean;
    is_sample boolean;
    first_call_id uuid;
    measured constant jsonb := voice.check_detail(complete_check.snr_db, false);
begin
    -- First: which encoder is active, and so whose baselines count, stays as it is until this is done.
    lock table care.models in row exclusive mode;
    held := care.leased_check(complete_check.check_id, complete_check.lease_token);
    if held.state <> 'leased' then
        return voice.stored_result(held.id);
    end if;
    select patients.* into patient from public.patients where patients.id = held.patient_id;
    select call_logs.* into call from public.call_logs where call_logs.id = held.call_log_id;
    policy := voice.policy(held.model);
    baseline := voice.current_baseline(patient.id, held.model);
    is_healthy := care.is_healthy_at(patient, call."timestamp");

    if patient.voice_consent_at is null then
        return voice.end_check(held.id, 'skipped', 'no_consent');
    end if;
    if care.skip_reason(call) is not null then
        -- What became of the call was told after its recording.
        return voice.end_check(held.id, 'skipped', care.skip_reason(call));
    end if;
    select embeddings.call_log_id into first_call_id
    from voice.embeddings
    where embeddings.patient_id = patient.id
        and embeddings.encoder = held.model
        and embeddings.audio_sha256 = complete_check.audio_sha256
        and embeddings.call_log_id <> call.id
        -- What was only embedded, with an archive, was never judged: it is judged now.
        and (held.is_backfill or exists (
            select from care.checks
            where checks.call_log_id = embeddings.call_log_id
                and checks.signal = 'voice'
                and checks.state in ('scored', 'enrolled')
        ));
    if found then
        update care.checks set duplicate_of = first_call_id where checks.id = held.id;
        return voice.end_check(held.id, 'skipped', 'duplicate_recording', complete_check.quality, measured);
    end if;
    if held.is_backfill then
        stored := voice.store_embedding(held, complete_check.embedding, complete_check.audio_sha256,
            complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
        is_sample := voice.build_from_backfill(patient, call, stored, policy);
        return voice.end_check(
            held.id, 'embedded', null, stored.quality, voice.check_detail(stored.snr_db, is_sample));
    end if;
    if not is_healthy and (call.source = 'onboarding' or baseline.id is null) then
        return voice.end_check(
            held.id, 'held',
            case call.source when 'onboarding' then 'sick_at_enrolment' else 'sick_without_baseline' end::public.check_reason,
            complete_check.quality, measured);
    end if;

    if (call.source = 'onboarding' or baseline.id is null)
        and held.model <> voice.active_encoder() and call.recording_ref is not null
        and not exists (
            select from care.checks as twin
            where twin.call_log_id = call.id
                and twin.signal = 'voice'
                and twin.id <> held.id
                and not twin.is_backfill
                and twin.state in ('queued', 'leased')
        )
    then
        return voice.requeue_under_active_encoder(held.id); -- another encoder became active meanwhile: the baseline is to be under that one
    end if;

    stored := voice.store_embedding(held, complete_check.embedding, complete_check.audio_sha256,
        complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
    if call.source = 'onboarding' or baseline.id is null then
        is_sample := voice.enrol(call, stored.id, policy);
        return voice.end_check(
            held.id, 'enrolled', null, stored.quality, voice.check_detail(stored.snr_db, is_sample));
    end if;
    logged := voice.score_call(patient, call, stored, baseline, policy, complete_check.at);
    return voice.end_check(
        held.id, 'scored', null, stored.quality, voice.check_detail(stored.snr_db, logged.added_to_baseline));
end
$$;
comment on function voice.complete_check is
    'Stores, then enrols or scores one voiceprint: the embedding, the baseline or the log, the call, the check-in, the alert and the check''s end, all or nothing. For a backfill, the embedding and at most the baseline. Repeated with the same token it returns the stored result. Raises RV001, RV003, RV005, or the constraint that a vector breaks. Definer: the service may touch no table. Called by the service, once per recording.';
revoke execute on function voice.complete_check from public;
grant execute on function voice.complete_check to retrocare_service;
