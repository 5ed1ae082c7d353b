-- The API: what caregivers, edge functions and integrators call over the Data API.

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
    -- The body is bound when it is made: nobody needs USAGE on a private schema.
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
    'Makes the public function of this private one: the same name, arguments, defaults, result and volatility, for these roles alone, who may then execute the private one as well; what it leaves out has the private one''s default. Called by these files.';
revoke execute on function care.expose from public;

select care.expose(
    'care.upsert_call', '{service_role}',
    'For integrators (service_role): one call of a phone provider, with its recording where it is known; the same call again adds what was missing. Returns its id. Raises PT400, PT409, RV002, RV006, RV008.');

select care.expose(
    'care.acknowledge_alert', '{authenticated,service_role}',
    'For caregivers, and service_role for the care team: I see to it. Stops reminders for the hours that care.alert_policies allows at this level; the others who were told hear of it. Raises PT403, PT404, PT409.',
    '{at,operator}');

select care.expose(
    'care.snooze_alert', '{authenticated}',
    'For caregivers: remind us then. Within the minutes and hours that care.alert_policies allows at this level. Raises PT400, PT403, PT404, PT409.',
    '{at}');

select care.expose(
    'care.resolve_alert', '{authenticated,service_role}',
    'For caregivers, and service_role for the care team: it is over, and this was it. ill notes a health flag as well. Raises PT400, PT403, PT404, PT409.',
    '{at,operator}');

select care.expose(
    'care.claim_receipts', '{service_role}',
    'For functions/notify-caregiver (service_role): messages whose provider should be asked what became of them.');

select care.expose(
    'care.finish_receipt', '{service_role}',
    'For functions/notify-caregiver (service_role): whether a message was delivered. Returns its state.');

select care.expose(
    'care.receive_call_report', '{service_role}',
    'For functions/call-webhook and reconciliation (service_role): one finished call, however often it is reported. Raises PT400.');

select care.expose(
    'care.unreported_calls', '{service_role}',
    'For functions/collect-recordings (service_role): those of these calls that nobody has reported.');

select care.expose(
    'care.reconcile_since', '{service_role}',
    'For functions/collect-recordings (service_role): from which update on to list the provider''s calls.');

select care.expose(
    'care.finish_reconciliation', '{service_role}',
    'For functions/collect-recordings (service_role): every call that was last updated before until was listed.');

select care.expose(
    'care.claim_recordings', '{service_role}',
    'For functions/collect-recordings (service_role): recordings that are due.');

select care.expose(
    'care.store_recording', '{service_role}',
    'For functions/collect-recordings (service_role): the recording is in Storage. False: the lease is lost.');

select care.expose(
    'care.fail_recording', '{service_role}',
    'For functions/collect-recordings (service_role): why a recording could not be copied. Returns its state.');

select care.expose(
    'care.claim_deliveries', '{service_role}',
    'For functions/notify-caregiver (service_role): messages that are due.');

select care.expose(
    'care.finish_delivery', '{service_role}',
    'For functions/notify-caregiver (service_role): a provider has accepted the message. False: the lease is lost.');

select care.expose(
    'care.fail_delivery', '{service_role}',
    'For functions/notify-caregiver (service_role): why a message was not accepted. Returns its state.');

select care.expose(
    'care.run_job', '{service_role}',
    'For operators (service_role): does what is due of one job of care.jobs; how much, -1 where it failed, null while another run is under way. Raises PT404.');

select care.expose(
    'voice.match_voices', '{service_role}',
    'For operators (service_role): whose voice is this like? The nearest of all patients'' current baselines; encoder null: the active one; min_similarity null: what its policy calls as usual. Noted in the audit. Raises PT400, PT404.');

select care.expose(
    'care.record_consent', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: a consent with its evidence, to voiceprints unless scope names another. Raises PT400, PT403, PT404.');

select care.expose(
    'care.withdraw_consent', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: ends a consent, to voiceprints unless scope names another, and erases what it allowed. Raises PT403, PT404.');

select care.expose(
    'care.export_patient', '{authenticated,service_role}',
    'For the primary caregiver, and service_role: everything that is kept of a patient, as JSON. Raises PT403, PT404.');

select care.expose(
    'care.read_recording', '{authenticated}',
    'For family, clinicians and primary caregivers: bucket/path of a call''s recording, to be opened with storage.createSignedUrl. Raises PT404.');

select care.expose(
    'care.erase_patient_voice', '{service_role}',
    'For the privacy officer (service_role): erases a voice, and ends the consent to it.');

select care.expose(
    'care.erase_patient', '{service_role}',
    'For the privacy officer (service_role): erases a person, but for the audit.');

select care.expose(
    'care.claim_deletions', '{service_role}',
    'For functions/delete-recordings (service_role): deletions that are due.');

select care.expose(
    'care.finish_deletion', '{service_role}',
    'For functions/delete-recordings (service_role): it is gone.');

select care.expose(
    'care.fail_deletion', '{service_role}',
    'For functions/delete-recordings (service_role): it is not gone.');

select care.expose(
    'care.set_my_preferences', '{authenticated}',
    'For every caregiver: what messages call the patient, their language, the caregiver''s time zone and quiet hours. All are given; what is null is as the settings say. Raises PT400, PT404.');

select care.expose(
    'care.add_caregiver', '{authenticated}',
    'For the primary caregiver: one more caregiver, with or without an account. Raises PT400, PT403, PT404, PT409.',
    '{language}');

select care.expose(
    'care.change_caregiver', '{authenticated}',
    'For the primary caregiver: writes a caregiver''s row. All are given; what is null is unset. Raises PT400, PT403, PT404, and PT409 where no primary caregiver would be left.',
    '{language}');

select care.expose(
    'care.remove_caregiver', '{authenticated}',
    'For the primary caregiver: somebody cares for the patient no longer. Raises PT403, PT404, and PT409 where no primary caregiver would be left.');
