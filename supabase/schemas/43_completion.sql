-- Completion: an embedding is stored, and the call enrols the patient or is scored. A backfill only stores it.

create function voice.check_detail(snr_db double precision, added_to_baseline boolean)
returns jsonb
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('snr_db', check_detail.snr_db, 'added_to_baseline', check_detail.added_to_baseline)
$$;
comment on function voice.check_detail is 'Returns what voice stores in care.checks.detail.';
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
comment on function voice.end_check is 'Writes the end of a check and returns its result. The caller has called care.leased_check.';
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
    'Stores the call''s embedding and returns it. If there already is one, from a backfill, from the call''s own check or from an archived call with the same bytes, it returns that one. The caller has called care.leased_check.';
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
comment on function voice.requeue_under_active_encoder is
    'Queues a check again for the encoder that has become active meanwhile. The caller has called care.leased_check.';
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
    'Updates baselines after a backfill has stored an embedding: an archived call may enrol under the active encoder; under another encoder, the baseline is rebuilt to match the active one''s. Returns whether the call became a sample. The caller has called care.lock_patient. Called by voice.complete_check.';
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
    -- Locked first, so that the active encoder, whose baselines count, cannot change meanwhile.
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
        -- The ended reason was reported after the recording had arrived.
        return voice.end_check(held.id, 'skipped', care.skip_reason(call));
    end if;
    select embeddings.call_log_id into first_call_id
    from voice.embeddings
    where embeddings.patient_id = patient.id
        and embeddings.encoder = held.model
        and embeddings.audio_sha256 = complete_check.audio_sha256
        and embeddings.call_log_id <> call.id
        -- A recording that was only embedded, as part of an archive, has not been judged. It is judged now.
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
        return voice.requeue_under_active_encoder(held.id); -- another encoder became active meanwhile, and the baseline must be built under that one
    end if;

    stored := voice.store_embedding(held, complete_check.embedding, complete_check.audio_sha256,
        complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
    if call.source = 'onboarding' or baseline.id is null then
        is_sample := voice.enrol(call, stored.id, policy);
        perform voice.learn_features(patient.id, stored.quality);
        return voice.end_check(
            held.id, 'enrolled', null, stored.quality, voice.check_detail(stored.snr_db, is_sample));
    end if;
    logged := voice.score_call(patient, call, stored, baseline, policy, complete_check.at);
    return voice.end_check(
        held.id, 'scored', null, stored.quality, voice.check_detail(stored.snr_db, logged.added_to_baseline));
end
$$;
comment on function voice.complete_check is
    'Stores one embedding, then enrols the patient or scores the call: writes the embedding, the baseline or the log, the call, the check-in, the alert and the end of the check, all or nothing. For a backfill, it writes only the embedding and possibly the baseline. Returns the result; a repeated call with the same token returns the stored one. Raises RV001, RV003, RV005, or a violation of the vector''s constraints. Security definer: the service has no privileges on tables. Called by the service, once per recording.';
revoke execute on function voice.complete_check from public;
grant execute on function voice.complete_check to retrocare_service;
