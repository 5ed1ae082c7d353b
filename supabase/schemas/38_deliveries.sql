-- Deliveries: how a message gets into a sender's hands, and what became of it. As for checks: claimed with a lease, the attempt
-- counted at the claim, an end exactly once.

create function voice.deliveries_to_cancel(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select waiting.id::text
    from voice.deliveries as waiting
    join public.alert_changes on alert_changes.id = waiting.change_id
    join public.caregiver_alerts on caregiver_alerts.id = waiting.alert_id
    where (waiting.state = 'queued' or (waiting.state = 'leased' and waiting.leased_until < clock_timestamp()))
        and (
            -- Somebody has answered: what was meant to press would only frighten.
            (alert_changes.change not in ('acknowledged', 'resolved')
                and caregiver_alerts.state not in ('open', 'escalated'))
            or exists (
                select from voice.deliveries as newer
                where newer.alert_id = waiting.alert_id
                    and newer.caregiver_id = waiting.caregiver_id
                    and newer.channel = waiting.channel
                    and newer.id > waiting.id
                    and newer.state in ('queued', 'leased', 'accepted')
            )
        )
    order by waiting.id
    limit deliveries_to_cancel.maximum_rows
$$;
comment on function voice.deliveries_to_cancel is
    'Messages that need not be sent any more: somebody has answered, or a newer one tells more. None is handed out. Called by voice.claim_deliveries and voice.run_job.';
revoke execute on function voice.deliveries_to_cancel from public;

create function voice.cancel_delivery(delivery_id text, at timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    with cancelled as (
        update voice.deliveries
        set state = 'cancelled',
            finished_at = cancel_delivery.at
        from (
            select waiting.id
            from voice.deliveries as waiting
            where waiting.id = cancel_delivery.delivery_id::bigint
                and (waiting.state = 'queued' or (waiting.state = 'leased' and waiting.leased_until < clock_timestamp()))
            for update skip locked
        ) as overtaken
        where deliveries.id = overtaken.id
        returning deliveries.id
    )
    select exists (select from cancelled)
$$;
comment on function voice.cancel_delivery is 'Ends a message that need not be sent any more; whether it did. Called by voice.run_job.';
revoke execute on function voice.cancel_delivery from public;

create type public.delivery_claim as (
    delivery_id bigint,
    idempotency_key uuid,
    lease_token uuid,
    channel text,
    address text,
    message text,
    level public.alert_level,
    change public.alert_change,
    alert_id uuid,
    patient_id uuid,
    attempts integer,
    may_have_been_sent boolean,
    created_at timestamptz
);
comment on type public.delivery_claim is 'A message to send: by what, where to, and its words.';

create function voice.claim_deliveries(worker text, count integer, lease_seconds double precision, at timestamptz)
returns setof public.delivery_claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    overtaken bigint[] := array(select id::bigint from voice.deliveries_to_cancel(claim_deliveries.at, null) as id);
begin
    -- Senders that vanish count as attempts, and an address may be gone by now.
    update voice.deliveries
    set state = 'dead',
        error_code = lost.code,
        error_message = lost.why,
        finished_at = claim_deliveries.at
    from (
        select
            due.id,
            case when addressed.is_left then 'attempts_exhausted' else 'no_address' end as code,
            case when addressed.is_left then 'Each sender that took it vanished'
                else 'The caregiver has no address for this channel any more' end as why
        from voice.deliveries as due
        cross join lateral (
            select exists (
                select
                from public.patient_caregivers
                cross join lateral voice.caregiver_addresses(patient_caregivers) as addresses
                where patient_caregivers.id = due.caregiver_id and addresses.channel = due.channel
            ) as is_left
        ) as addressed
        where ((due.state = 'queued' and due.run_at <= claim_deliveries.at)
                or (due.state = 'leased' and due.leased_until < clock_timestamp()))
            and due.id <> all (overtaken)
            and (not addressed.is_left
                or due.attempts >= (select settings.delivery_maximum_attempts from voice.settings))
        for update of due skip locked
    ) as lost
    where deliveries.id = lost.id;

    return query
        update voice.deliveries as claimed
        set state = 'leased',
            attempts = claimed.attempts + 1,
            -- Whoever held it vanished: nobody knows how far it came.
            may_have_been_sent = claimed.may_have_been_sent or claimed.state = 'leased',
            worker = claim_deliveries.worker,
            lease_token = gen_random_uuid(),
            leased_until = clock_timestamp() + make_interval(secs => claim_deliveries.lease_seconds)
        from (
            select due.id
            from voice.deliveries as due
            join public.alert_changes on alert_changes.id = due.change_id
            where ((due.state = 'queued' and due.run_at <= claim_deliveries.at)
                    or (due.state = 'leased' and due.leased_until < clock_timestamp()))
                and due.id <> all (overtaken)
            order by alert_changes.level desc, due.run_at, due.id
            for update of due skip locked
            limit claim_deliveries.count
        ) as ready
        cross join public.alert_changes
        cross join public.patient_caregivers
        cross join lateral voice.caregiver_addresses(patient_caregivers) as addresses
        where claimed.id = ready.id
            and alert_changes.id = claimed.change_id
            and patient_caregivers.id = claimed.caregiver_id
            and addresses.channel = claimed.channel
        returning
            claimed.id, claimed.idempotency_key, claimed.lease_token, claimed.channel, addresses.address,
            voice.alert_message(alert_changes, patient_caregivers), alert_changes.level, alert_changes.change,
            claimed.alert_id, alert_changes.patient_id, claimed.attempts, claimed.may_have_been_sent, claimed.created_at;
end
$$;
comment on function voice.claim_deliveries is
    'Hands out up to count messages that are due, the most urgent first, and none that need not be sent any more. Definer: the edge function reads no number by itself.';
revoke execute on function voice.claim_deliveries from public;
grant execute on function voice.claim_deliveries to service_role;

create function voice.finish_delivery(delivery_id bigint, lease_token uuid, provider_message_id text, at timestamptz)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    sent voice.deliveries;
begin
    -- The log behind it is the patient's, and a patient is locked first.
    perform voice.lock_patient_if_any((
        select caregiver_alerts.patient_id
        from voice.deliveries
        join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
        where deliveries.id = finish_delivery.delivery_id
    ));
    update voice.deliveries
    set state = 'accepted',
        provider_message_id = finish_delivery.provider_message_id,
        error_code = null,
        error_message = null,
        finished_at = finish_delivery.at
    where deliveries.id = finish_delivery.delivery_id
        and deliveries.lease_token = finish_delivery.lease_token
        and deliveries.state = 'leased'
    returning * into sent;
    if not found then
        return exists (
            select from voice.deliveries
            where deliveries.id = finish_delivery.delivery_id
                and deliveries.lease_token = finish_delivery.lease_token
                and deliveries.state = 'accepted'
        );
    end if;
    update public.voice_anomaly_logs
    set alert_sent = true
    from public.alert_changes
    where alert_changes.id = sent.change_id
        and voice_anomaly_logs.id = alert_changes.log_id
        and not voice_anomaly_logs.alert_sent;
    return true;
end
$$;
comment on function voice.finish_delivery is
    'A provider has accepted the message: the log behind it says alert_sent. False: the lease is lost. Definer: the edge function may not touch voice.';
revoke execute on function voice.finish_delivery from public;
grant execute on function voice.finish_delivery to service_role;

create function voice.fail_delivery(
    delivery_id bigint, lease_token uuid, code text, message text, is_permanent boolean, may_have_been_sent boolean,
    at timestamptz
)
returns public.delivery_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    setting voice.settings := (select settings from voice.settings);
begin
    update voice.deliveries
    set state = case when is_over then 'dead' else 'queued' end::public.delivery_state,
        may_have_been_sent = deliveries.may_have_been_sent or fail_delivery.may_have_been_sent,
        error_code = fail_delivery.code,
        error_message = left(fail_delivery.message, 1000),
        run_at = fail_delivery.at + voice.retry_wait(deliveries.attempts, setting.delivery_retry_cap_seconds),
        lease_token = null,
        leased_until = null,
        finished_at = case when is_over then fail_delivery.at end
    from (
        select failing.id, fail_delivery.is_permanent or failing.attempts >= setting.delivery_maximum_attempts as is_over
        from voice.deliveries as failing
        where failing.id = fail_delivery.delivery_id
    ) as failed
    where deliveries.id = failed.id
        and deliveries.lease_token = fail_delivery.lease_token
        and deliveries.state = 'leased';
    return (select deliveries.state from voice.deliveries where deliveries.id = fail_delivery.delivery_id);
end
$$;
comment on function voice.fail_delivery is
    'Notes why a message was not accepted: tried again after a wait that doubles, or dead where it is permanent or the attempts are spent. Returns the state. Definer: as voice.finish_delivery.';
revoke execute on function voice.fail_delivery from public;
grant execute on function voice.fail_delivery to service_role;
