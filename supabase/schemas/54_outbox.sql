-- The outbox: one delivery for each change to be sent, each caregiver to be notified, and each channel that reaches that caregiver.
-- Deliveries are written in the transaction of the change, and sent by functions/notify-caregiver.

create table care.delivery_channels (
    id text constraint delivery_channels_pkey primary key,
    is_enabled boolean not null
);
alter table care.delivery_channels enable row level security;
insert into care.delivery_channels values ('sms', true), ('webhook', true), ('console', false);
comment on table care.delivery_channels is
    'The channels by which messages are sent; each is a file of functions/notify-caregiver/channels. console is for development: it counts every caregiver as reachable and sends nothing.';

create type public.delivery_state as enum (
    'queued',       -- waits to be sent, or for a retry             -> leased, cancelled
    'leased',       -- being sent                                   -> accepted, dead, queued again
    'accepted',     -- end: the provider accepted it
    'cancelled',    -- end: somebody responded, or a newer message says more
    'dead'          -- end, and an operator issue: it cannot be sent, or failed too often
);
comment on type public.delivery_state is 'The state of a message to a caregiver.';

create table care.deliveries (
    id bigint generated always as identity constraint deliveries_pkey primary key,
    alert_id uuid not null
        constraint a_delivery_is_about_an_alert references public.caregiver_alerts (id) on delete cascade,
    change_id uuid not null
        constraint a_delivery_tells_a_change references public.alert_changes (id) on delete cascade,
    call_log_id uuid
        constraint a_delivery_keeps_its_call references public.call_logs (id) on delete set null,
    caregiver_id uuid not null
        constraint a_delivery_goes_to_a_caregiver references public.patient_caregivers (id) on delete cascade,
    channel text not null
        constraint a_delivery_goes_by_a_channel references care.delivery_channels (id),
    state public.delivery_state not null default 'queued',
    attempts integer not null default 0,
    may_have_been_sent boolean not null default false,
    run_at timestamptz not null,
    worker text,
    lease_token uuid,
    leased_until timestamptz,
    due_at timestamptz
        generated always as (case state when 'queued' then run_at when 'leased' then leased_until end) stored,
    idempotency_key uuid not null default gen_random_uuid(),
    provider_message_id text,
    error_code text,
    error_message text,
    created_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    constraint a_change_is_told_once_to_each_by_each_channel unique (change_id, caregiver_id, channel),
    constraint a_leased_delivery_has_a_lease
        check (state <> 'leased' or (lease_token is not null and leased_until is not null)),
    constraint an_ended_delivery_has_its_time check ((state in ('queued', 'leased')) = (finished_at is null))
);
create index deliveries_by_alert on care.deliveries (alert_id, caregiver_id, channel, id desc);
create index deliveries_by_call on care.deliveries (call_log_id);
create index deliveries_by_caregiver on care.deliveries (caregiver_id);
create index deliveries_by_channel on care.deliveries (channel);
create index deliveries_to_send on care.deliveries (due_at) where due_at is not null;
alter table care.deliveries enable row level security;
comment on table care.deliveries is 'The outbox: one row per change, caregiver and channel.';
comment on column care.deliveries.may_have_been_sent is
    'Whether an attempt ended without an answer from the provider. The provider is then asked before the message is sent again.';
comment on column care.deliveries.run_at is 'The message is not sent before this time: quiet hours, or the wait before a retry.';
comment on column care.deliveries.due_at is
    'When the message can be claimed: run_at while it is queued, leased_until while it is leased. Null: it has ended.';
comment on column care.deliveries.idempotency_key is 'The same for every attempt, for providers that support idempotency keys.';
grant select (
    id, alert_id, change_id, call_log_id, caregiver_id, channel, state, attempts, run_at, error_code, created_at, finished_at
) on care.deliveries to service_role;
alter table care.deliveries
    add column receipt_count integer not null default 0,
    add column delivered_at timestamptz,
    add constraint what_is_delivered_was_accepted check (delivered_at is null or state = 'accepted');
comment on column care.deliveries.receipt_count is 'How often the provider was asked whether the message was delivered.';
comment on column care.deliveries.delivered_at is 'When the provider said that the message was delivered. Null: not known.';
create index deliveries_without_receipt on care.deliveries (finished_at)
    where state = 'accepted' and provider_message_id is not null and delivered_at is null and receipt_count < 3;
create index deliveries_by_age on care.deliveries (finished_at);
create index deliveries_at_issue on care.deliveries (id) where state = 'dead' or (state = 'queued' and error_code is not null);

create function care.caregiver_addresses(caregiver public.patient_caregivers)
returns table (channel text, address text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select delivery_channels.id, addresses.address
    from care.delivery_channels
    join lateral (
        values
            ('sms', caregiver.phone), ('webhook', caregiver.webhook_url),
            ('console', coalesce(caregiver.name, 'caregiver'))
        union all
        select further.key, further.value
        from jsonb_each_text(caregiver.other_addresses) as further
        where further.key not in ('sms', 'webhook', 'console')
    ) as addresses (channel, address) on addresses.channel = delivery_channels.id
    where delivery_channels.is_enabled and nullif(addresses.address, '') is not null
$$;
comment on function care.caregiver_addresses is 'Returns the addresses at which a caregiver can be reached, one for each enabled channel.';
revoke execute on function care.caregiver_addresses from public;

create function care.caregivers_to_tell(change public.alert_changes)
returns setof public.patient_caregivers
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with reachable as (
        select
            patient_caregivers as caregiver,
            case
                when patient_caregivers.role = any (case
                    when change.change in ('escalated', 'reminded') then alert_policies.further_roles
                    else alert_policies.first_roles
                end) then 1
                when patient_caregivers.role <> 'viewer' then 2
                else 3
            end as turn
        from public.patient_caregivers
        join care.alert_policies on alert_policies.level = change.level
        where patient_caregivers.patient_id = change.patient_id
            and exists (select from care.caregiver_addresses(patient_caregivers))
    )
    -- Changes that call for action go to the roles whose turn it is; if none of those caregivers can be reached, to everybody who
    -- can.
    select (reachable.caregiver).*
    from reachable
    where change.change not in ('acknowledged', 'resolved')
        and reachable.turn = (select min(others.turn) from reachable as others)
    union all
    -- Changes that end the need for action go to everybody who was notified before, except the caregiver who acted.
    select (reachable.caregiver).*
    from reachable
    where change.change in ('acknowledged', 'resolved')
        and (reachable.caregiver).id is distinct from change.caregiver_id
        and exists (
            select from care.deliveries
            where deliveries.alert_id = change.alert_id
                and deliveries.caregiver_id = (reachable.caregiver).id
                and deliveries.state in ('accepted', 'leased')
        )
$$;
comment on function care.caregivers_to_tell is
    'Returns the caregivers to be notified of a change, as care.alert_policies says, without those who cannot be reached.';
revoke execute on function care.caregivers_to_tell from public;

create function care.on_alert_change()
returns trigger
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into care.deliveries (alert_id, change_id, call_log_id, caregiver_id, channel, run_at)
    select
        new.alert_id, new.id, new.call_log_id, caregiver.id, addresses.channel,
        case
            when alert_policies.waits_for_morning and not new.is_urgent then care.after_quiet_hours(
                new.changed_at, coalesce(caregiver.timezone, patients.timezone),
                coalesce(caregiver.quiet_from, settings.quiet_from), coalesce(caregiver.quiet_until, settings.quiet_until))
            else new.changed_at
        end
    from care.caregivers_to_tell(new) as caregiver
    cross join lateral care.caregiver_addresses(caregiver) as addresses
    join public.patients on patients.id = new.patient_id
    join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
    join care.alert_policies on alert_policies.level = new.level
    where exists (
            select from care.alert_openings
            where alert_openings.change = new.change and alert_openings.is_by_rule = (new.actor = 'rule')
        )
        -- If somebody alternates between acknowledging and snoozing, only the first acknowledgement is sent until the alert calls for
        -- action again.
        and not (new.change = 'acknowledged' and exists (
            select from public.alert_changes as earlier
            where earlier.alert_id = new.alert_id
                and earlier.change = 'acknowledged'
                and earlier.id <> new.id
                and not exists (
                    select from public.alert_changes as pressing
                    where pressing.alert_id = new.alert_id
                        and pressing.change in ('opened', 'raised', 'escalated', 'reminded', 'woken', 'reopened')
                        and pressing.changed_at > earlier.changed_at
                )
        ));
    return null;
end
$$;
comment on function care.on_alert_change is
    'Trigger: inserts the deliveries of a change, due at once or after the quiet hours. Security definer: roles that act on alerts have no privileges on the private schemas.';
revoke execute on function care.on_alert_change from public;

create view public.alert_deliveries
with (security_invoker = true)
as
select
    deliveries.id,
    deliveries.alert_id,
    deliveries.change_id,
    deliveries.call_log_id,
    deliveries.caregiver_id,
    deliveries.channel,
    deliveries.state,
    deliveries.attempts,
    deliveries.run_at,
    deliveries.error_code,
    deliveries.created_at,
    deliveries.finished_at
from care.deliveries;
comment on view public.alert_deliveries is 'For operators (service_role): every message to a caregiver, with its state.';
comment on column public.alert_deliveries.run_at is 'The message is not sent before this time.';
revoke all on public.alert_deliveries from anon, authenticated, service_role;
grant select on public.alert_deliveries to service_role;
