-- The API: what caregivers, edge functions and integrators call over the Data API. The bodies are bound when they are created:
-- nobody needs USAGE on a private schema.

create function public.upsert_call(
    patient_id uuid, provider text, provider_call_id text, recording_ref text default null,
    recording_channel public.recording_channel default null, occurred_at timestamptz default null, ended_reason text default null,
    summary text default null
)
returns uuid
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.upsert_call(
        upsert_call.patient_id, upsert_call.provider, upsert_call.provider_call_id, upsert_call.recording_ref,
        upsert_call.recording_channel, upsert_call.occurred_at, upsert_call.ended_reason, upsert_call.summary);
end;
comment on function public.upsert_call is
    'For integrators (service_role): one call of a phone provider, with its recording where it is known; the same call again adds what was missing. Returns its id. Raises PT400, PT409, RV002, RV006, RV008.';
revoke execute on function public.upsert_call from public, anon, authenticated;
grant execute on function public.upsert_call to service_role;

create function public.acknowledge_alert(alert_id uuid)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.acknowledge_alert(acknowledge_alert.alert_id, now());
end;
comment on function public.acknowledge_alert is
    'For caregivers, and service_role for the care team: I see to it. Stops reminders for the hours that care.alert_policies allows at this level; the others who were told hear of it. Raises PT403, PT404, PT409.';
revoke execute on function public.acknowledge_alert from public, anon;
grant execute on function public.acknowledge_alert to authenticated, service_role;

create function public.snooze_alert(alert_id uuid, until timestamptz)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.snooze_alert(snooze_alert.alert_id, snooze_alert.until, now());
end;
comment on function public.snooze_alert is
    'For caregivers: remind us then. Within the minutes and hours that care.alert_policies allows at this level. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.snooze_alert from public, anon, service_role;
grant execute on function public.snooze_alert to authenticated;

create function public.resolve_alert(alert_id uuid, outcome public.alert_outcome, notes text default null)
returns public.caregiver_alerts
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.resolve_alert(resolve_alert.alert_id, resolve_alert.outcome, resolve_alert.notes, now());
end;
comment on function public.resolve_alert is
    'For caregivers, and service_role for the care team: it is over, and this was it. ill notes a health flag as well. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.resolve_alert from public, anon;
grant execute on function public.resolve_alert to authenticated, service_role;

create function public.claim_receipts(count integer, at timestamptz default now())
returns setof public.receipt_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.claim_receipts(claim_receipts.count, claim_receipts.at);
end;
comment on function public.claim_receipts is
    'For functions/notify-caregiver (service_role): messages whose provider should be asked what became of them.';
revoke execute on function public.claim_receipts from public, anon, authenticated;
grant execute on function public.claim_receipts to service_role;

create function public.finish_receipt(
    delivery_id bigint, is_delivered boolean, message text default null, at timestamptz default now()
)
returns public.delivery_state
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.finish_receipt(
        finish_receipt.delivery_id, finish_receipt.is_delivered, finish_receipt.message, finish_receipt.at);
end;
comment on function public.finish_receipt is
    'For functions/notify-caregiver (service_role): whether a message was delivered. Returns its state.';
revoke execute on function public.finish_receipt from public, anon, authenticated;
grant execute on function public.finish_receipt to service_role;

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
    select care.receive_call_report(
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
    select care.unreported_calls(unreported_calls.provider, unreported_calls.provider_call_ids);
end;
comment on function public.unreported_calls is 'For functions/collect-recordings (service_role): those of these calls that nobody has reported.';
revoke execute on function public.unreported_calls from public, anon, authenticated;
grant execute on function public.unreported_calls to service_role;

create function public.reconcile_since(provider text, at timestamptz default now())
returns timestamptz
language sql
stable
set search_path = pg_catalog, pg_temp
begin atomic
    select care.reconcile_since(reconcile_since.provider, reconcile_since.at);
end;
comment on function public.reconcile_since is 'For functions/collect-recordings (service_role): from when on to list the provider''s calls.';
revoke execute on function public.reconcile_since from public, anon, authenticated;
grant execute on function public.reconcile_since to service_role;

create function public.finish_reconciliation(provider text, until timestamptz)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.finish_reconciliation(finish_reconciliation.provider, finish_reconciliation.until);
end;
comment on function public.finish_reconciliation is 'For functions/collect-recordings (service_role): every call made before until was asked for.';
revoke execute on function public.finish_reconciliation from public, anon, authenticated;
grant execute on function public.finish_reconciliation to service_role;

create function public.claim_recordings(
    worker text, count integer, lease_seconds double precision, call_log_id uuid default null, at timestamptz default now()
)
returns setof public.recording_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.claim_recordings(
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
    select care.store_recording(
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
    select care.fail_recording(
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
    select care.claim_deliveries(
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
    select care.finish_delivery(
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
    select care.fail_delivery(
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
    select care.run_job(run_job.job, run_job.at);
end;
comment on function public.run_job is
    'For operators (service_role): does what is due of one job of care.jobs; how much, -1 where it failed, null while another run is under way. Raises PT404.';
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

create function public.record_consent(
    patient_id uuid, evidence text, given_at timestamptz default now(), scope text default 'voiceprint'
)
returns public.consents
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.record_consent(
        record_consent.patient_id, record_consent.evidence, record_consent.given_at, record_consent.scope);
end;
comment on function public.record_consent is
    'For the primary caregiver, and service_role: a consent with its evidence, to voiceprints unless scope names another. Raises PT400, PT403, PT404.';
revoke execute on function public.record_consent from public, anon;
grant execute on function public.record_consent to authenticated, service_role;

create function public.withdraw_consent(patient_id uuid, scope text default 'voiceprint')
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.withdraw_consent(withdraw_consent.patient_id, withdraw_consent.scope);
end;
comment on function public.withdraw_consent is
    'For the primary caregiver, and service_role: ends a consent, to voiceprints unless scope names another, and erases what it allowed. Raises PT403, PT404.';
revoke execute on function public.withdraw_consent from public, anon;
grant execute on function public.withdraw_consent to authenticated, service_role;

create function public.export_patient(patient_id uuid)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.export_patient(export_patient.patient_id);
end;
comment on function public.export_patient is
    'For the primary caregiver, and service_role: everything that is kept of a patient, as JSON. Raises PT403, PT404.';
revoke execute on function public.export_patient from public, anon;
grant execute on function public.export_patient to authenticated, service_role;

create function public.read_recording(call_log_id uuid)
returns text
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.read_recording(read_recording.call_log_id);
end;
comment on function public.read_recording is
    'For family, clinicians and primary caregivers: bucket/path of a call''s recording, to be opened with storage.createSignedUrl. Raises PT404.';
revoke execute on function public.read_recording from public, anon, service_role;
grant execute on function public.read_recording to authenticated;

create function public.erase_patient_voice(patient_id uuid, reason text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.erase_patient_voice(erase_patient_voice.patient_id, erase_patient_voice.reason);
end;
comment on function public.erase_patient_voice is 'For the privacy officer (service_role): erases a voice, and ends the consent to it.';
revoke execute on function public.erase_patient_voice from public, anon, authenticated;
grant execute on function public.erase_patient_voice to service_role;

create function public.erase_patient(patient_id uuid, reason text)
returns jsonb
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.erase_patient(erase_patient.patient_id, erase_patient.reason);
end;
comment on function public.erase_patient is 'For the privacy officer (service_role): erases a person, but for the audit.';
revoke execute on function public.erase_patient from public, anon, authenticated;
grant execute on function public.erase_patient to service_role;

create function public.claim_deletions(worker text, count integer, lease_seconds double precision, at timestamptz default now())
returns setof public.deletion_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.claim_deletions(
        claim_deletions.worker, claim_deletions.count, claim_deletions.lease_seconds, claim_deletions.at);
end;
comment on function public.claim_deletions is 'For functions/delete-recordings (service_role): deletions that are due.';
revoke execute on function public.claim_deletions from public, anon, authenticated;
grant execute on function public.claim_deletions to service_role;

create function public.finish_deletion(deletion_id bigint, lease_token uuid, at timestamptz default now())
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.finish_deletion(finish_deletion.deletion_id, finish_deletion.lease_token, finish_deletion.at);
end;
comment on function public.finish_deletion is 'For functions/delete-recordings (service_role): it is gone.';
revoke execute on function public.finish_deletion from public, anon, authenticated;
grant execute on function public.finish_deletion to service_role;

create function public.fail_deletion(deletion_id bigint, lease_token uuid, code text, at timestamptz default now())
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.fail_deletion(fail_deletion.deletion_id, fail_deletion.lease_token, fail_deletion.code, fail_deletion.at);
end;
comment on function public.fail_deletion is 'For functions/delete-recordings (service_role): it is not gone.';
revoke execute on function public.fail_deletion from public, anon, authenticated;
grant execute on function public.fail_deletion to service_role;

create function public.set_my_preferences(
    patient_id uuid, patient_known_as text, language text, timezone text, quiet_from time, quiet_until time
)
returns public.patient_caregivers
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.set_my_preferences(
        set_my_preferences.patient_id, set_my_preferences.patient_known_as, set_my_preferences.language,
        set_my_preferences.timezone, set_my_preferences.quiet_from, set_my_preferences.quiet_until);
end;
comment on function public.set_my_preferences is
    'For every caregiver: what messages call the patient, their language, the caregiver''s time zone and quiet hours. All are given; what is null is as the settings say. Raises PT400, PT404.';
revoke execute on function public.set_my_preferences from public, anon, service_role;
grant execute on function public.set_my_preferences to authenticated;

create function public.add_caregiver(
    patient_id uuid,
    role public.caregiver_role,
    name text,
    phone text default null,
    webhook_url text default null,
    user_id uuid default null,
    patient_known_as text default null
)
returns public.patient_caregivers
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.add_caregiver(
        add_caregiver.patient_id, add_caregiver.role, add_caregiver.name, add_caregiver.phone, add_caregiver.webhook_url,
        add_caregiver.user_id, add_caregiver.patient_known_as);
end;
comment on function public.add_caregiver is
    'For the primary caregiver: one more caregiver, with or without an account. Raises PT400, PT403, PT404, PT409.';
revoke execute on function public.add_caregiver from public, anon, service_role;
grant execute on function public.add_caregiver to authenticated;

create function public.change_caregiver(
    caregiver_id uuid, role public.caregiver_role, name text, phone text, webhook_url text, user_id uuid, patient_known_as text
)
returns public.patient_caregivers
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.change_caregiver(
        change_caregiver.caregiver_id, change_caregiver.role, change_caregiver.name, change_caregiver.phone,
        change_caregiver.webhook_url, change_caregiver.user_id, change_caregiver.patient_known_as);
end;
comment on function public.change_caregiver is
    'For the primary caregiver: writes a caregiver''s row. All are given; what is null is unset. Raises PT400, PT403, PT404, and PT409 where no primary caregiver would be left.';
revoke execute on function public.change_caregiver from public, anon, service_role;
grant execute on function public.change_caregiver to authenticated;

create function public.remove_caregiver(caregiver_id uuid)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select care.remove_caregiver(remove_caregiver.caregiver_id);
end;
comment on function public.remove_caregiver is
    'For the primary caregiver: somebody cares for the patient no longer. Raises PT403, PT404, and PT409 where no primary caregiver would be left.';
revoke execute on function public.remove_caregiver from public, anon, service_role;
grant execute on function public.remove_caregiver to authenticated;
