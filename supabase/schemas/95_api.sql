-- The API: the functions that caregivers, edge functions and integrators call over the Data API.

create function care.expose(private_function regproc, roles text[], comment text, unpublished_arguments text[] default '{}')
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    published pg_catalog.pg_proc;
    signature text;
    arguments text;
    passed text;
begin
    select pg_proc.* into strict published from pg_catalog.pg_proc where pg_proc.oid = expose.private_function;
    select
        string_agg(format('%I %s', argument.name, format_type(argument.type, null)), ', ' order by argument.position),
        string_agg(
            format('%I %s', argument.name, format_type(argument.type, null))
                || coalesce(' default ' || pg_get_function_arg_default(published.oid, argument.position::integer), ''),
            ', ' order by argument.position),
        string_agg(format('%1$I => %2$I.%1$I', argument.name, published.proname), ', ' order by argument.position)
    into signature, arguments, passed
    from unnest(published.proargnames, published.proargtypes::oid[]) with ordinality as argument (name, type, position)
    where argument.type is not null and argument.name <> all (expose.unpublished_arguments);
    -- A `begin atomic` body is bound when the function is created, so callers need no USAGE on the private schema.
    execute format(
        'create function public.%I(%s) returns %s language sql %s set search_path = pg_catalog, pg_temp begin atomic select %s(%s); end',
        published.proname,
        arguments,
        pg_get_function_result(published.oid),
        case published.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
        published.oid::regproc,
        passed);
    signature := format('public.%I(%s)', published.proname, signature);
    execute format('comment on function %s is %L', signature, expose.comment);
    execute format('revoke execute on function %s from public, anon, authenticated, service_role', signature);
    execute format(
        'grant execute on function %s, %s to %s',
        signature, published.oid::regprocedure, (select string_agg(format('%I', role), ', ') from unnest(expose.roles) as role));
end
$$;
comment on function care.expose is
    'Creates a public function that calls this private one, with the same name, arguments, defaults, result and volatility. Only these roles may execute it, and they may then execute the private one too. Unpublished arguments keep their defaults. Called by these files.';
revoke execute on function care.expose from public;

select care.expose(
    'care.upsert_call', '{service_role}',
    'For integrators (service_role): writes a call of a phone provider, with its recording if known. If the call is written again, missing values are added. Returns its id. Raises PT400, PT409, RV002, RV006, RV008.');

select care.expose(
    'care.acknowledge_alert', '{authenticated,service_role}',
    'For caregivers, and service_role for the care team: acknowledges an alert. Reminders stop for the hours that care.alert_policies allows at this level, and the other notified caregivers are informed. Raises PT403, PT404, PT409.',
    '{at,operator}');

select care.expose(
    'care.snooze_alert', '{authenticated}',
    'For caregivers: snoozes an alert, within the minutes and hours that care.alert_policies allows at this level. Raises PT400, PT403, PT404, PT409.',
    '{at}');

select care.expose(
    'care.resolve_alert', '{authenticated,service_role}',
    'For caregivers, and service_role for the care team: resolves an alert with its outcome. The outcome ill also adds a health flag. Raises PT400, PT403, PT404, PT409.',
    '{at,operator}');

select care.expose(
    'care.claim_receipts', '{service_role}',
    'For functions/notify-caregiver (service_role): claims messages whose receipt is due.');

select care.expose(
    'care.finish_receipt', '{service_role}',
    'For functions/notify-caregiver (service_role): notes whether a message was delivered. Returns its state.');

select care.expose(
    'care.receive_call_report', '{service_role}',
    'For functions/call-webhook and reconciliation (service_role): stores the report of a finished call; reports may be repeated. Raises PT400.');

select care.expose(
    'care.unreported_calls', '{service_role}',
    'For functions/collect-recordings (service_role): returns those of these calls that were never reported.');

select care.expose(
    'care.reconcile_since', '{service_role}',
    'For functions/collect-recordings (service_role): returns the time since which the provider''s updated calls must be listed.');

select care.expose(
    'care.finish_reconciliation', '{service_role}',
    'For functions/collect-recordings (service_role): notes that all calls last updated before until have been listed.');

select care.expose(
    'care.claim_recordings', '{service_role}',
    'For functions/collect-recordings (service_role): claims recordings that are due.');

select care.expose(
    'care.store_recording', '{service_role}',
    'For functions/collect-recordings (service_role): notes that a recording is in Storage. False: the lease is lost.');

select care.expose(
    'care.fail_recording', '{service_role}',
    'For functions/collect-recordings (service_role): notes why a recording could not be copied. Returns its state.');

select care.expose(
    'care.claim_deliveries', '{service_role}',
    'For functions/notify-caregiver (service_role): claims messages that are due.');

select care.expose(
    'care.finish_delivery', '{service_role}',
    'For functions/notify-caregiver (service_role): notes that a provider has accepted the message. False: the lease is lost.');

select care.expose(
    'care.fail_delivery', '{service_role}',
    'For functions/notify-caregiver (service_role): notes why a message was not accepted. Returns its state.');

select care.expose(
    'care.run_job', '{service_role}',
    'For operators (service_role): processes what is due of one job of care.jobs. Returns how many items; -1 if it failed; null if another run is in progress. Raises PT404.');

select care.expose(
    'voice.match_voices', '{service_role}',
    'For operators (service_role): returns the patients whose current baselines are most similar to this embedding. encoder null: the active one; min_similarity null: 1 - medium_above of its thresholds. Noted in the audit log. Raises PT400, PT404.');

select care.expose(
    'care.record_consent', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: records a consent with its evidence, to voiceprints unless scope names another. Raises PT400, PT403, PT404.');

select care.expose(
    'care.withdraw_consent', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: withdraws a consent, to voiceprints unless scope names another, and erases what it allowed. Raises PT403, PT404.');

select care.expose(
    'care.export_patient', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: returns everything that is stored about a patient, as JSON. Raises PT403, PT404.');

select care.expose(
    'care.read_recording', '{authenticated}',
    'For family, clinicians and primary caregivers: returns bucket/path of a call''s recording, to be opened with storage.createSignedUrl. Raises PT404.');

select care.expose(
    'care.erase_patient_voice', '{service_role}',
    'For the privacy officer (service_role): erases a patient''s voice data and withdraws the consent to them.');

select care.expose(
    'care.erase_patient', '{service_role}',
    'For the privacy officer (service_role): erases a person, except for the audit log.');

select care.expose(
    'care.claim_deletions', '{service_role}',
    'For functions/delete-recordings (service_role): claims deletions that are due.');

select care.expose(
    'care.finish_deletion', '{service_role}',
    'For functions/delete-recordings (service_role): notes that a copy is deleted.');

select care.expose(
    'care.fail_deletion', '{service_role}',
    'For functions/delete-recordings (service_role): notes that a copy could not be deleted.');

select care.expose(
    'care.set_my_preferences', '{authenticated}',
    'For every caregiver: sets what messages call the patient, their language, and the caregiver''s time zone and quiet hours. All arguments are written; null means the default. Raises PT400, PT404.');

select care.expose(
    'care.set_warnings_per_year', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: sets how many warnings a year by chance the family accepts (null: as the organisation does), and returns what applies. Raises PT400, PT403, PT404.');

select care.expose(
    'care.set_organisation_warnings', '{service_role}',
    'For operators (service_role): sets how many warnings a year by chance are accepted for each patient whose family did not choose. Raises PT400, PT404.');

select care.expose(
    'care.warning_budget_list', '{authenticated,service_role}',
    'For caregivers, and service_role: returns the choices of how many warnings a year by chance are accepted, what each means, and which one applies to the patient.');

select care.expose(
    'voice.replay_policy', '{service_role}',
    'For operators (service_role): returns what another policy or budget would have done with the stored calls of a patient, an organisation or all, beside what happened. Nothing is stored. Raises PT400.');

select care.expose(
    'care.add_caregiver', '{authenticated}',
    'For the primary caregiver: adds a caregiver, with or without an account. Raises PT400, PT403, PT404, PT409.',
    '{language}');

select care.expose(
    'care.change_caregiver', '{authenticated}',
    'For the primary caregiver: changes a caregiver. All arguments are written; null unsets a value. Raises PT400, PT403, PT404, and PT409 if no primary caregiver would be left.',
    '{language}');

select care.expose(
    'care.remove_caregiver', '{authenticated}',
    'For the primary caregiver: removes a caregiver. Raises PT403, PT404, and PT409 if no primary caregiver would be left.');
