-- Deliveries: how a message is claimed and sent, and whether it arrived. As for checks, a message is claimed with a lease, the claim
-- counts the attempt, and each message ends exactly once. A provider that has accepted a message may still fail to deliver it. The
-- provider is therefore asked some minutes later, three times in all; a message that was not delivered is an operator issue.

create function care.deliveries_to_cancel(at timestamptz, maximum_rows integer)
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select waiting.id::text
    from care.deliveries as waiting
    join public.alert_changes on alert_changes.id = waiting.change_id
    join public.caregiver_alerts on caregiver_alerts.id = waiting.alert_id
    where (waiting.state = 'queued' or waiting.due_at <= deliveries_to_cancel.at)
        and (
            -- Somebody has responded: a message that calls for action would only alarm.
            (alert_changes.change not in ('acknowledged', 'resolved')
                and caregiver_alerts.state not in ('open', 'escalated'))
            or exists (
                select from care.deliveries as newer
                where newer.alert_id = waiting.alert_id
                    and newer.caregiver_id = waiting.caregiver_id
                    and newer.channel = waiting.channel
                    and newer.id > waiting.id
                    and (newer.finished_at is null or newer.state = 'accepted')
            )
        )
    order by waiting.id
    limit deliveries_to_cancel.maximum_rows
$$;
comment on function care.deliveries_to_cancel is
    'Lists messages that need not be sent any more, because somebody has responded or a newer message says more. These are never claimed. Called by care.claim_deliveries and care.run_job.';
revoke execute on function care.deliveries_to_cancel from public;

create function care.cancel_delivery(delivery_id text, at timestamptz)
returns boolean
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    with cancelled as (
        update care.deliveries
        set state = 'cancelled',
            finished_at = cancel_delivery.at
        from (
            select waiting.id
            from care.deliveries as waiting
            where waiting.id = cancel_delivery.delivery_id::bigint
                and (waiting.state = 'queued' or waiting.due_at <= cancel_delivery.at)
            for update skip locked
        ) as overtaken
        where deliveries.id = overtaken.id
        returning deliveries.id
    )
    select exists (select from cancelled)
$$;
comment on function care.cancel_delivery is
    'Cancels a message that need not be sent any more. Returns whether it did. Called by care.run_job.';
revoke execute on function care.cancel_delivery from public;

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
    call_log_id uuid,
    patient_id uuid,
    attempts integer,
    may_have_been_sent boolean,
    created_at timestamptz
);
comment on type public.delivery_claim is 'A message to send: its channel, address and text.';

create function care.claim_deliveries(worker text, count integer, lease_seconds double precision, at timestamptz default now())
returns setof public.delivery_claim
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    overtaken bigint[] := array(select id::bigint from care.deliveries_to_cancel(claim_deliveries.at, null) as id);
begin
    -- A lost lease counts as an attempt, and the address may have been removed meanwhile.
    update care.deliveries
    set state = 'dead',
        error_code = lost.code,
        error_message = lost.why,
        finished_at = claim_deliveries.at
    from (
        select
            due.id,
            case when addressed.is_left then 'attempts_exhausted' else 'no_address' end as code,
            case when addressed.is_left then 'The lease of every attempt was lost'
                else 'The caregiver no longer has an address for this channel' end as why
        from care.deliveries as due
        cross join lateral (
            select exists (
                select
                from public.patient_caregivers
                cross join lateral care.caregiver_addresses(patient_caregivers) as addresses
                where patient_caregivers.id = due.caregiver_id and addresses.channel = due.channel
            ) as is_left
        ) as addressed
        where due.due_at <= claim_deliveries.at
            and due.id <> all (overtaken)
            and (not addressed.is_left
                or due.attempts >= (select settings.delivery_maximum_attempts from care.settings))
        for update of due skip locked
    ) as lost
    where deliveries.id = lost.id;

    return query
        update care.deliveries as claimed
        set state = 'leased',
            attempts = claimed.attempts + 1,
            -- The lease was lost, so the message may have been sent.
            may_have_been_sent = claimed.may_have_been_sent or claimed.state = 'leased',
            worker = claim_deliveries.worker,
            lease_token = gen_random_uuid(),
            leased_until = claim_deliveries.at + make_interval(secs => claim_deliveries.lease_seconds)
        from (
            select due.id
            from care.deliveries as due
            join public.alert_changes on alert_changes.id = due.change_id
            where due.due_at <= claim_deliveries.at
                and due.id <> all (overtaken)
            order by alert_changes.level desc, due.due_at, due.id
            for update of due skip locked
            limit claim_deliveries.count
        ) as ready
        cross join public.alert_changes
        cross join public.patient_caregivers
        cross join lateral care.caregiver_addresses(patient_caregivers) as addresses
        where claimed.id = ready.id
            and alert_changes.id = claimed.change_id
            and patient_caregivers.id = claimed.caregiver_id
            and addresses.channel = claimed.channel
        returning
            claimed.id, claimed.idempotency_key, claimed.lease_token, claimed.channel, addresses.address,
            care.alert_message(alert_changes, patient_caregivers), alert_changes.level, alert_changes.change,
            claimed.alert_id, claimed.call_log_id, alert_changes.patient_id, claimed.attempts, claimed.may_have_been_sent, claimed.created_at;
end
$$;
comment on function care.claim_deliveries is
    'Claims up to count messages that are due and returns them, most urgent first. Messages that need not be sent any more are left out. Security definer: the edge function may not read phone numbers itself.';
revoke execute on function care.claim_deliveries from public;

create function care.finish_delivery(
    delivery_id bigint, lease_token uuid, provider_message_id text default null, at timestamptz default now()
)
returns boolean
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    sent care.deliveries;
begin
    -- This may change a judgement, which belongs to the patient, so the patient is locked first.
    perform care.lock_patient_if_any((
        select caregiver_alerts.patient_id
        from care.deliveries
        join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
        where deliveries.id = finish_delivery.delivery_id
    ));
    update care.deliveries
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
            select from care.deliveries
            where deliveries.id = finish_delivery.delivery_id
                and deliveries.lease_token = finish_delivery.lease_token
                and deliveries.state = 'accepted'
        );
    end if;
    update public.judgements
    set alert_sent = true
    from public.alert_changes
    where alert_changes.id = sent.change_id
        and judgements.id = alert_changes.judgement_id
        and not judgements.alert_sent;
    return true;
end
$$;
comment on function care.finish_delivery is
    'Notes that a provider has accepted the message, and sets alert_sent on its judgement. Returns false if the lease is lost. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.finish_delivery from public;

create function care.fail_delivery(
    delivery_id bigint, lease_token uuid, code text, message text, is_permanent boolean, may_have_been_sent boolean default false,
    at timestamptz default now()
)
returns public.delivery_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    setting care.settings := (select settings from care.settings);
begin
    update care.deliveries
    set state = case when is_over then 'dead' else 'queued' end::public.delivery_state,
        may_have_been_sent = deliveries.may_have_been_sent or fail_delivery.may_have_been_sent,
        error_code = fail_delivery.code,
        error_message = left(fail_delivery.message, 1000),
        run_at = fail_delivery.at + care.retry_wait(deliveries.attempts, setting.delivery_retry_cap_seconds),
        lease_token = null,
        leased_until = null,
        finished_at = case when is_over then fail_delivery.at end
    from (
        select failing.id, fail_delivery.is_permanent or failing.attempts >= setting.delivery_maximum_attempts as is_over
        from care.deliveries as failing
        where failing.id = fail_delivery.delivery_id
    ) as failed
    where deliveries.id = failed.id
        and deliveries.lease_token = fail_delivery.lease_token
        and deliveries.state = 'leased';
    return (select deliveries.state from care.deliveries where deliveries.id = fail_delivery.delivery_id);
end
$$;
comment on function care.fail_delivery is
    'Notes why a message was not accepted, and returns its state. It is retried with exponential backoff, or dead if the failure is permanent or all attempts are used up. Security definer for the same reason as care.finish_delivery.';
revoke execute on function care.fail_delivery from public;

create function care.receipt_wait(receipt_count integer)
returns interval
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (array['2 minutes', '10 minutes', '60 minutes']::interval[])[receipt_wait.receipt_count + 1]
$$;
comment on function care.receipt_wait is
    'Returns how long after acceptance the provider is asked for the next receipt, if it was asked this many times. Null: it is not asked again.';
revoke execute on function care.receipt_wait from public;

create function care.due_receipts(at timestamptz)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from care.deliveries
    where deliveries.state = 'accepted'
        and deliveries.provider_message_id is not null
        and deliveries.delivered_at is null
        and deliveries.receipt_count < 3
        and deliveries.finished_at + care.receipt_wait(deliveries.receipt_count) <= due_receipts.at
$$;
comment on function care.due_receipts is 'Returns for how many messages a receipt can be requested now. Called by care.due_work.';
revoke execute on function care.due_receipts from public;

create type public.receipt_claim as (
    delivery_id bigint,
    call_log_id uuid,
    channel text,
    provider_message_id text
);
comment on type public.receipt_claim is 'A message whose receipt is to be requested from its provider.';

create function care.claim_receipts(count integer, at timestamptz default now())
returns setof public.receipt_claim
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.deliveries as claimed
    set receipt_count = claimed.receipt_count + 1
    from (
        select due.id
        from care.deliveries as due
        where due.state = 'accepted'
            and due.provider_message_id is not null
            and due.delivered_at is null
            and due.receipt_count < 3
            and due.finished_at + care.receipt_wait(due.receipt_count) <= claim_receipts.at
        order by due.finished_at
        for update of due skip locked
        limit claim_receipts.count
    ) as ready
    where claimed.id = ready.id
    returning claimed.id, claimed.call_log_id, claimed.channel, claimed.provider_message_id
$$;
comment on function care.claim_receipts is
    'Claims up to count messages whose receipt is due and returns them. The request is counted here, so that after a crash the next one follows in its turn. Security definer for the same reason as care.claim_deliveries.';
revoke execute on function care.claim_receipts from public;

create function care.finish_receipt(
    delivery_id bigint, is_delivered boolean, message text default null, at timestamptz default now()
)
returns public.delivery_state
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    change public.alert_changes;
begin
    select alert_changes.* into change
    from care.deliveries
    join public.alert_changes on alert_changes.id = deliveries.change_id
    where deliveries.id = finish_receipt.delivery_id;
    if not found then
        return null; -- erased meanwhile
    end if;
    perform care.lock_patient(change.patient_id);

    update care.deliveries
    set state = case when finish_receipt.is_delivered then 'accepted' else 'dead' end::public.delivery_state,
        delivered_at = case when finish_receipt.is_delivered then finish_receipt.at end,
        error_code = case when not finish_receipt.is_delivered then 'undelivered' end,
        error_message = case when not finish_receipt.is_delivered then left(finish_receipt.message, 1000) end
    where deliveries.id = finish_receipt.delivery_id
        and deliveries.state = 'accepted'
        and deliveries.delivered_at is null;
    if found and not finish_receipt.is_delivered then
        update public.judgements
        set alert_sent = false
        where judgements.id = change.judgement_id
            and not exists (
                select
                from public.alert_changes
                join care.deliveries on deliveries.change_id = alert_changes.id
                where alert_changes.judgement_id = change.judgement_id and deliveries.state = 'accepted'
            );
    end if;
    return (select deliveries.state from care.deliveries where deliveries.id = finish_receipt.delivery_id);
end
$$;
comment on function care.finish_receipt is
    'Notes whether an accepted message was delivered, and returns its state. An undelivered one is dead with the code undelivered and thus an operator issue; its judgement loses alert_sent unless another message about it was accepted. Security definer for the same reason as care.claim_deliveries.';
revoke execute on function care.finish_receipt from public;

create function care.delivery_list(states public.delivery_state[], patient_id uuid, maximum_rows integer)
returns table (
    id bigint,
    patient text,
    caregiver text,
    channel text,
    change public.alert_change,
    state public.delivery_state,
    attempts integer,
    run_at timestamptz,
    error_code text,
    error_message text,
    alert_id uuid,
    created_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        deliveries.id,
        patients.name,
        patient_caregivers.name,
        deliveries.channel,
        alert_changes.change,
        deliveries.state,
        deliveries.attempts,
        deliveries.run_at,
        deliveries.error_code,
        deliveries.error_message,
        deliveries.alert_id,
        deliveries.created_at
    from care.deliveries
    join public.alert_changes on alert_changes.id = deliveries.change_id
    join public.patients on patients.id = alert_changes.patient_id
    join public.patient_caregivers on patient_caregivers.id = deliveries.caregiver_id
    where (delivery_list.states is null or deliveries.state = any (delivery_list.states))
        and (delivery_list.patient_id is null or alert_changes.patient_id = delivery_list.patient_id)
    order by deliveries.id desc
    limit delivery_list.maximum_rows
$$;
comment on function care.delivery_list is
    'Returns the messages in these states about this patient (null: all), newest first. Called by `retrocare deliveries list`.';
revoke execute on function care.delivery_list from public;
grant execute on function care.delivery_list to retrocare_service;

create function care.requeue_deliveries(delivery_ids bigint[])
returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint[] := array(
        select deliveries.id
        from care.deliveries
        where deliveries.state = 'dead'
            and (requeue_deliveries.delivery_ids is null or deliveries.id = any (requeue_deliveries.delivery_ids))
    );
begin
    perform from public.patients
    where patients.id in (
        select caregiver_alerts.patient_id
        from care.deliveries
        join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
        where deliveries.id = any (wanted)
    )
    order by patients.id
    for no key update;
    return query
        update care.deliveries
        set state = 'queued',
            attempts = 0,
            run_at = clock_timestamp(),
            worker = null,
            lease_token = null,
            leased_until = null,
            error_code = null,
            error_message = null,
            finished_at = null,
            provider_message_id = null,
            receipt_count = 0
        where deliveries.id = any (wanted) and deliveries.state = 'dead'
        returning deliveries.id;
end
$$;
comment on function care.requeue_deliveries is
    'Queues dead messages again (these, or null for all) with all their attempts, and returns their ids. As always, one that may have been sent is first looked up at the provider, and one that is no longer needed is cancelled. Called by `retrocare deliveries requeue`.';
revoke execute on function care.requeue_deliveries from public;
grant execute on function care.requeue_deliveries to retrocare_service;
