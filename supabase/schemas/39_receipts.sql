-- Receipts: a provider that has accepted a message may never bring it to the telephone. It is asked some minutes later what became
-- of it, three times in all, and what was not delivered is the operator's.

alter table voice.deliveries
    add column receipt_count integer not null default 0,
    add column delivered_at timestamptz,
    add constraint what_is_delivered_was_accepted check (delivered_at is null or state = 'accepted');
comment on column voice.deliveries.receipt_count is 'How often the provider was asked what became of the message.';
comment on column voice.deliveries.delivered_at is 'When the provider said that the message had arrived; null: not known.';
create index deliveries_without_receipt on voice.deliveries (finished_at)
    where state = 'accepted' and provider_message_id is not null and delivered_at is null and receipt_count < 3;

create function voice.receipt_wait(receipt_count integer)
returns interval
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (array['2 minutes', '10 minutes', '60 minutes']::interval[])[receipt_wait.receipt_count + 1]
$$;
comment on function voice.receipt_wait is
    'How long after a message was accepted its provider is asked for a receipt, once it was asked so often; null: not any more.';
revoke execute on function voice.receipt_wait from public;

create function voice.due_receipts(at timestamptz)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select count(*)
    from voice.deliveries
    where deliveries.state = 'accepted'
        and deliveries.provider_message_id is not null
        and deliveries.delivered_at is null
        and deliveries.receipt_count < 3
        and deliveries.finished_at + voice.receipt_wait(deliveries.receipt_count) <= due_receipts.at
$$;
comment on function voice.due_receipts is 'Of how many messages a receipt could be asked for now. Called by voice.due_work.';
revoke execute on function voice.due_receipts from public;

create type public.receipt_claim as (
    delivery_id bigint,
    channel text,
    provider_message_id text
);
comment on type public.receipt_claim is 'A message whose provider is to be asked what became of it.';

create function voice.claim_receipts(count integer, at timestamptz)
returns setof public.receipt_claim
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update voice.deliveries as claimed
    set receipt_count = claimed.receipt_count + 1
    from (
        select due.id
        from voice.deliveries as due
        where due.state = 'accepted'
            and due.provider_message_id is not null
            and due.delivered_at is null
            and due.receipt_count < 3
            and due.finished_at + voice.receipt_wait(due.receipt_count) <= claim_receipts.at
        order by due.finished_at
        for update of due skip locked
        limit claim_receipts.count
    ) as ready
    where claimed.id = ready.id
    returning claimed.id, claimed.channel, claimed.provider_message_id
$$;
comment on function voice.claim_receipts is
    'Hands out up to count messages whose provider should be asked now, each once at a time: counted here, so that who vanishes is followed by the next question. Definer: as voice.claim_deliveries.';
revoke execute on function voice.claim_receipts from public;
grant execute on function voice.claim_receipts to service_role;

create function voice.finish_receipt(delivery_id bigint, is_delivered boolean, message text, at timestamptz)
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
    from voice.deliveries
    join public.alert_changes on alert_changes.id = deliveries.change_id
    where deliveries.id = finish_receipt.delivery_id;
    if not found then
        return null; -- erased since
    end if;
    perform voice.lock_patient(change.patient_id);

    update voice.deliveries
    set state = case when finish_receipt.is_delivered then 'accepted' else 'dead' end::public.delivery_state,
        delivered_at = case when finish_receipt.is_delivered then finish_receipt.at end,
        error_code = case when not finish_receipt.is_delivered then 'undelivered' end,
        error_message = case when not finish_receipt.is_delivered then left(finish_receipt.message, 1000) end
    where deliveries.id = finish_receipt.delivery_id
        and deliveries.state = 'accepted'
        and deliveries.delivered_at is null;
    if found and not finish_receipt.is_delivered then
        update public.voice_anomaly_logs
        set alert_sent = false
        where voice_anomaly_logs.id = change.log_id
            and not exists (
                select
                from public.alert_changes
                join voice.deliveries on deliveries.change_id = alert_changes.id
                where alert_changes.log_id = change.log_id and deliveries.state = 'accepted'
            );
    end if;
    return (select deliveries.state from voice.deliveries where deliveries.id = finish_receipt.delivery_id);
end
$$;
comment on function voice.finish_receipt is
    'Notes what became of a message that was accepted: delivered, or dead with the code undelivered, so that it is the operator''s, and its log says alert_sent no longer where nobody else was told. Returns the state. Definer: as voice.claim_deliveries.';
revoke execute on function voice.finish_receipt from public;
grant execute on function voice.finish_receipt to service_role;

create function public.claim_receipts(count integer, at timestamptz default now())
returns setof public.receipt_claim
language sql
volatile
set search_path = pg_catalog, pg_temp
begin atomic
    select voice.claim_receipts(claim_receipts.count, claim_receipts.at);
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
    select voice.finish_receipt(
        finish_receipt.delivery_id, finish_receipt.is_delivered, finish_receipt.message, finish_receipt.at);
end;
comment on function public.finish_receipt is
    'For functions/notify-caregiver (service_role): whether a message was delivered. Returns its state.';
revoke execute on function public.finish_receipt from public, anon, authenticated;
grant execute on function public.finish_receipt to service_role;
