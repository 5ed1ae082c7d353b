-- Completion: the recording became a vector. It is stored, and the call enrols or is scored; or only stored, where a backfill
-- asked for it.

create function voice.keep_print(
    held voice.checks,
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
    where embeddings.encoder = held.encoder
        and (embeddings.call_log_id = held.call_log_id
            or (embeddings.patient_id = held.patient_id and embeddings.audio_sha256 = keep_print.audio_sha256))
    order by embeddings.call_log_id = held.call_log_id desc
    limit 1;
    if not found then
        insert into voice.embeddings
            (patient_id, call_log_id, encoder, embedding, audio_sha256, speech_seconds, snr_db, quality)
        values (held.patient_id, held.call_log_id, held.encoder, keep_print.embedding, keep_print.audio_sha256,
            keep_print.speech_seconds, keep_print.snr_db, keep_print.quality)
        returning * into kept;
    end if;
    return kept;
end
$$;
comment on function voice.keep_print is
    'The call''s voiceprint: this one, unless a backfill, the call''s own check or an archived call of the same bytes has stored one. The caller holds voice.held_check.';
revoke execute on function voice.keep_print from public;

create function voice.hand_over(check_id bigint)
returns voice.check_result
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update voice.checks
    set encoder = voice.active_encoder(),
        state = 'queued',
        lease_token = null,
        leased_until = null,
        worker = null
    where checks.id = hand_over.check_id;
    return voice.stored_result(hand_over.check_id);
end
$$;
comment on function voice.hand_over is 'Queues a check for the encoder that has become active. The caller holds voice.held_check.';
revoke execute on function voice.hand_over from public;

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
    held voice.checks;
    policy voice.policies;
    patient public.patients;
    call public.call_logs;
    baseline voice.baselines;
    print voice.embeddings;
    logged public.voice_anomaly_logs;
    is_healthy boolean;
    is_sample boolean;
    first_call_id uuid;
begin
    -- First: which encoder is active, and so whose baselines count, stays as it is until this is done.
    lock table voice.encoders in row exclusive mode;
    held := voice.held_check(complete_check.check_id, complete_check.lease_token);
    if held.state <> 'leased' then
        return voice.stored_result(held.id);
    end if;
    select patients.* into patient from public.patients where patients.id = held.patient_id;
    select call_logs.* into call from public.call_logs where call_logs.id = held.call_log_id;
    policy := voice.policy(held.encoder);
    baseline := voice.current_baseline(patient.id, held.encoder);
    is_healthy := voice.is_healthy_at(patient, call."timestamp");

    if patient.voice_consent_at is null then
        return voice.finish_check(held.id, 'skipped', 'no_consent', null, false, null, null);
    end if;
    if voice.skip_reason(call) is not null then
        -- What became of the call was told after its recording.
        return voice.finish_check(held.id, 'skipped', voice.skip_reason(call), null, false, null, null);
    end if;
    select embeddings.call_log_id into first_call_id
    from voice.embeddings
    where embeddings.patient_id = patient.id
        and embeddings.encoder = held.encoder
        and embeddings.audio_sha256 = complete_check.audio_sha256
        and embeddings.call_log_id <> call.id
        -- What was only embedded, with an archive, was never judged: it is judged now.
        and (held.is_backfill or exists (
            select from voice.checks
            where checks.call_log_id = embeddings.call_log_id and checks.state in ('scored', 'enrolled')
        ));
    if found then
        update voice.checks set duplicate_of = first_call_id where checks.id = held.id;
        return voice.finish_check(held.id, 'skipped', 'duplicate_recording', null, false,
            complete_check.snr_db, complete_check.quality);
    end if;
    if held.is_backfill then
        print := voice.keep_print(held, complete_check.embedding, complete_check.audio_sha256,
            complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
        return voice.finish_check(held.id, 'embedded', null, null,
            voice.build_from_backfill(patient, call, print, policy), print.snr_db, print.quality);
    end if;
    if not is_healthy and (call.source = 'onboarding' or baseline.id is null) then
        return voice.finish_check(held.id, 'held',
            case call.source when 'onboarding' then 'sick_at_enrolment' else 'sick_without_baseline' end::public.check_reason,
            null, false, complete_check.snr_db, complete_check.quality);
    end if;

    if (call.source = 'onboarding' or baseline.id is null)
        and held.encoder <> voice.active_encoder() and call.recording_ref is not null
        and not exists (
            select from voice.checks as twin
            where twin.call_log_id = call.id and twin.id <> held.id and not twin.is_backfill and twin.state in ('queued', 'leased')
        )
    then
        return voice.hand_over(held.id); -- another encoder became active meanwhile: the baseline is to be under that one
    end if;

    print := voice.keep_print(held, complete_check.embedding, complete_check.audio_sha256,
        complete_check.speech_seconds, complete_check.snr_db, complete_check.quality);
    if call.source = 'onboarding' or baseline.id is null then
        is_sample := voice.enrol(call, print.id, policy);
        return voice.finish_check(held.id, 'enrolled', null, null, is_sample, print.snr_db, print.quality);
    end if;
    logged := voice.score_call(patient, call, print, baseline, policy, complete_check.at);
    return voice.finish_check(held.id, 'scored', null, logged.id, logged.added_to_baseline, print.snr_db, print.quality);
end
$$;
comment on function voice.complete_check is
    'Stores, then enrols or scores one voiceprint: the embedding, the baseline or the log, the call, the check-in, the alert and the check''s end, all or nothing. For a backfill, the embedding and at most the baseline. Repeated with the same token it returns the stored result. Raises RV001, RV003, RV005, or the constraint that a vector breaks. Definer: the service may touch no table. Called by the service, once per recording.';
revoke execute on function voice.complete_check from public;
grant execute on function voice.complete_check to retrocare_service;
