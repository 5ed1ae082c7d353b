-- Functions: what the edge functions call over the Data API, as service_role. The bodies are bound when they are created: nobody
-- needs USAGE on the private schema.

create function public.receive_call_report(
    provider text, provider_call_id text, patient_id uuid default null, phone text default null,
    started_at timestamptz default null, ended_at timestamptz default null, ended_reason text default null,
    summary text default null, recording_url text default null, recording_url_channel text default null,
    recording_url_expires_at timestamptz default null, speech_intervals jsonb default null,
    is_recording_consented boolean default null, at timestamptz default now()
)
returns public.received_call
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.receive_call_report(
        receive_call_report.provider, receive_call_report.provider_call_id, receive_call_report.patient_id,
        receive_call_report.phone, receive_call_report.started_at, receive_call_report.ended_at,
        receive_call_report.ended_reason, receive_call_report.summary, receive_call_report.recording_url,
        receive_call_report.recording_url_channel, receive_call_report.recording_url_expires_at,
        receive_call_report.speech_intervals, receive_call_report.is_recording_consented, receive_call_report.at);
end;
comment on function public.receive_call_report is
    'For functions/vapi-webhook and sweeps of the provider (service_role): one finished call, however often it is reported. Raises PT400.';
revoke execute on function public.receive_call_report from public, anon, authenticated;
grant execute on function public.receive_call_report to service_role;

create function public.unreported_calls(provider text, provider_call_ids text[])
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.unreported_calls(unreported_calls.provider, unreported_calls.provider_call_ids);
end;
comment on function public.unreported_calls is 'For functions/collect-recordings (service_role): those of these calls that nobody has reported.';
revoke execute on function public.unreported_calls from public, anon, authenticated;
grant execute on function public.unreported_calls to service_role;

create function public.sweep_since(provider text, at timestamptz default now())
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.sweep_since(sweep_since.provider, sweep_since.at);
end;
comment on function public.sweep_since is 'For functions/collect-recordings (service_role): from when on to list the provider''s calls.';
revoke execute on function public.sweep_since from public, anon, authenticated;
grant execute on function public.sweep_since to service_role;

create function public.finish_sweep(provider text, until timestamptz)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.finish_sweep(finish_sweep.provider, finish_sweep.until);
end;
comment on function public.finish_sweep is 'For functions/collect-recordings (service_role): every call made before until was asked for.';
revoke execute on function public.finish_sweep from public, anon, authenticated;
grant execute on function public.finish_sweep to service_role;

create function public.claim_recordings(
    worker text, count integer, lease_seconds double precision, call_log_id uuid default null, at timestamptz default now()
)
returns setof public.recording_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.claim_recordings(
        claim_recordings.worker, claim_recordings.count, claim_recordings.lease_seconds, claim_recordings.call_log_id,
        claim_recordings.at);
end;
comment on function public.claim_recordings is 'For functions/collect-recordings (service_role): recordings that are due.';
revoke execute on function public.claim_recordings from public, anon, authenticated;
grant execute on function public.claim_recordings to service_role;

create function public.store_recording(
    call_log_id uuid, lease_token uuid, recording_ref text, recording_channel text, speech_intervals jsonb default null
)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.store_recording(
        store_recording.call_log_id, store_recording.lease_token, store_recording.recording_ref,
        store_recording.recording_channel, store_recording.speech_intervals);
end;
comment on function public.store_recording is
    'For functions/collect-recordings (service_role): the recording is in Storage. False: the lease is lost.';
revoke execute on function public.store_recording from public, anon, authenticated;
grant execute on function public.store_recording to service_role;

create function public.fail_recording(
    call_log_id uuid, lease_token uuid, code text, message text, is_permanent boolean, at timestamptz default now()
)
returns public.recording_state
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.fail_recording(
        fail_recording.call_log_id, fail_recording.lease_token, fail_recording.code, fail_recording.message,
        fail_recording.is_permanent, fail_recording.at);
end;
comment on function public.fail_recording is
    'For functions/collect-recordings (service_role): why a recording could not be copied. Returns its state.';
revoke execute on function public.fail_recording from public, anon, authenticated;
grant execute on function public.fail_recording to service_role;

create function public.claim_deliveries(
    worker text, count integer, lease_seconds double precision, at timestamptz default now()
)
returns setof public.delivery_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.claim_deliveries(
        claim_deliveries.worker, claim_deliveries.count, claim_deliveries.lease_seconds, claim_deliveries.at);
end;
comment on function public.claim_deliveries is 'For functions/notify-caregiver (service_role): messages that are due.';
revoke execute on function public.claim_deliveries from public, anon, authenticated;
grant execute on function public.claim_deliveries to service_role;

create function public.finish_delivery(
    delivery_id bigint, lease_token uuid, provider_message_id text default null, at timestamptz default now()
)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.finish_delivery(
        finish_delivery.delivery_id, finish_delivery.lease_token, finish_delivery.provider_message_id, finish_delivery.at);
end;
comment on function public.finish_delivery is
    'For functions/notify-caregiver (service_role): a provider has accepted the message. False: the lease is lost.';
revoke execute on function public.finish_delivery from public, anon, authenticated;
grant execute on function public.finish_delivery to service_role;

create function public.fail_delivery(
    delivery_id bigint, lease_token uuid, code text, message text, is_permanent boolean,
    may_have_been_sent boolean default false, at timestamptz default now()
)
returns public.delivery_state
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.fail_delivery(
        fail_delivery.delivery_id, fail_delivery.lease_token, fail_delivery.code, fail_delivery.message,
        fail_delivery.is_permanent, fail_delivery.may_have_been_sent, fail_delivery.at);
end;
comment on function public.fail_delivery is
    'For functions/notify-caregiver (service_role): why a message was not accepted. Returns its state.';
revoke execute on function public.fail_delivery from public, anon, authenticated;
grant execute on function public.fail_delivery to service_role;

create function public.run_job(job text, at timestamptz default now())
returns integer
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.run_job(run_job.job, run_job.at);
end;
comment on function public.run_job is
    'For operators (service_role): does what is due of one job of voice.jobs; how much, -1 where it failed, null while another run is under way. Raises PT404.';
revoke execute on function public.run_job from public, anon, authenticated;
grant execute on function public.run_job to service_role;

create function public.match_voices(
    embedding extensions.vector, encoder text default null, count integer default 5,
    min_similarity double precision default null
)
returns setof public.voice_match
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.match_voices(
        match_voices.embedding, match_voices.encoder, match_voices.count, match_voices.min_similarity);
end;
comment on function public.match_voices is
    'For operators (service_role): whose voice is this like? The nearest of all patients'' current baselines; encoder null: the active one; min_similarity null: what its policy calls as usual. Noted in the audit. Raises PT400, PT404.';
revoke execute on function public.match_voices from public, anon, authenticated;
grant execute on function public.match_voices to service_role;
