-- Operator actions: what the command line shows an operator, and does for the care team. Definer functions, all of them:
-- `retrocare_service` may touch no table.

create function voice.alert_list(patient_id uuid, is_resolved_shown boolean, maximum_rows integer)
returns table (
    id uuid,
    patient_id uuid,
    patient text,
    level public.alert_level,
    state public.alert_state,
    cause public.alert_cause,
    anomaly_score double precision,
    opened_at timestamptz,
    repeat_count integer,
    outcome public.alert_outcome,
    notes text,
    last_change public.alert_change,
    last_actor public.alert_actor
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        alerts.id,
        alerts.patient_id,
        patients.name,
        alerts.level,
        alerts.state,
        alerts.cause,
        alerts.anomaly_score,
        alerts.opened_at,
        alerts.repeat_count,
        alerts.outcome,
        alerts.notes,
        latest.change,
        latest.actor
    from public.caregiver_alerts as alerts
    join public.patients on patients.id = alerts.patient_id
    left join lateral (
        select alert_changes.change, alert_changes.actor
        from public.alert_changes
        where alert_changes.alert_id = alerts.id
        order by alert_changes.changed_at desc, alert_changes.change desc
        limit 1
    ) as latest on true
    where (alert_list.is_resolved_shown or alerts.resolved_at is null)
        and (alert_list.patient_id is null or alerts.patient_id = alert_list.patient_id)
    order by alerts.resolved_at nulls first, alerts.level desc, alerts.opened_at desc
    limit alert_list.maximum_rows
$$;
comment on function voice.alert_list is
    'The alerts of this patient (null: of all), the unresolved and most urgent first. Called by `retrocare alert list`.';
revoke execute on function voice.alert_list from public;
grant execute on function voice.alert_list to retrocare_service;

create function voice.delivery_list(states public.delivery_state[], patient_id uuid, maximum_rows integer)
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
    from voice.deliveries
    join public.alert_changes on alert_changes.id = deliveries.change_id
    join public.patients on patients.id = alert_changes.patient_id
    join public.patient_caregivers on patient_caregivers.id = deliveries.caregiver_id
    where (delivery_list.states is null or deliveries.state = any (delivery_list.states))
        and (delivery_list.patient_id is null or alert_changes.patient_id = delivery_list.patient_id)
    order by deliveries.id desc
    limit delivery_list.maximum_rows
$$;
comment on function voice.delivery_list is
    'Messages in these states about this patient (null: all), newest first. Called by `retrocare deliveries list`.';
revoke execute on function voice.delivery_list from public;
grant execute on function voice.delivery_list to retrocare_service;

create function voice.requeue_deliveries(delivery_ids bigint[])
returns setof bigint
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted bigint[] := array(
        select deliveries.id
        from voice.deliveries
        where deliveries.state = 'dead'
            and (requeue_deliveries.delivery_ids is null or deliveries.id = any (requeue_deliveries.delivery_ids))
    );
begin
    perform from public.patients
    where patients.id in (
        select caregiver_alerts.patient_id
        from voice.deliveries
        join public.caregiver_alerts on caregiver_alerts.id = deliveries.alert_id
        where deliveries.id = any (wanted)
    )
    order by patients.id
    for no key update;
    return query
        update voice.deliveries
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
comment on function voice.requeue_deliveries is
    'Queues dead messages again (these, or null for all), with all their attempts; one that may have been sent is looked up first, as ever, and one that was overtaken is cancelled. Called by `retrocare deliveries requeue`.';
revoke execute on function voice.requeue_deliveries from public;
grant execute on function voice.requeue_deliveries to retrocare_service;

create function voice.caregiver_list(patient_id uuid)
returns table (
    id uuid,
    patient_id uuid,
    patient text,
    role public.caregiver_role,
    name text,
    phone text,
    webhook_url text,
    patient_known_as text,
    language text,
    user_id uuid,
    is_reachable boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select
        patient_caregivers.id,
        patients.id,
        patients.name,
        patient_caregivers.role,
        patient_caregivers.name,
        patient_caregivers.phone,
        patient_caregivers.webhook_url,
        patient_caregivers.patient_known_as,
        patient_caregivers.language,
        patient_caregivers.user_id,
        exists (select from voice.caregiver_addresses(patient_caregivers))
    from public.patient_caregivers
    join public.patients on patients.id = patient_caregivers.patient_id
    where caregiver_list.patient_id is null or patients.id = caregiver_list.patient_id
    order by patients.created_at, patients.id, patient_caregivers.role desc, patient_caregivers.created_at
$$;
comment on function voice.caregiver_list is
    'Who cares for this patient (null: for whom), and whether messages reach them by a channel that is enabled. Called by `retrocare caregiver`.';
revoke execute on function voice.caregiver_list from public;
grant execute on function voice.caregiver_list to retrocare_service;

create function voice.unknown_flags()
returns table (patient_id uuid, patient text, flag text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select patients.id, patients.name, flags.flag
    from public.patients
    cross join lateral unnest(patients.flags) as flags (flag)
    where not exists (
        select from voice.sickness_words
        where sickness_words.word = any (regexp_split_to_array(lower(flags.flag), '[^[:alpha:]]+'))
    )
    order by patients.created_at, patients.id
$$;
comment on function voice.unknown_flags is
    'Words of patients.flags in which no word of voice.sickness_words is found: they hold nothing back. Called by `retrocare patient list`.';
revoke execute on function voice.unknown_flags from public;
grant execute on function voice.unknown_flags to retrocare_service;

create function voice.set_policy(encoder text, changes jsonb)
returns voice.policies
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present voice.policies := voice.policy(set_policy.encoder);
    unknown text := (
        select string_agg(given.name, ', ')
        from jsonb_object_keys(set_policy.changes) as given (name)
        where given.name = 'encoder' or not to_jsonb(present) ? given.name
    );
    changed voice.policies;
begin
    if unknown is not null then
        raise exception using
            errcode = 'PT400',
            message = format('No threshold or limit is called %s', unknown),
            hint = '`retrocare policy show` lists them.';
    end if;
    execute (
        select format('update voice.policies set %s where encoder = $2 returning *',
            string_agg(format('%1$I = (jsonb_populate_record(null::voice.policies, $1)).%1$I', given.name), ', '))
        from jsonb_object_keys(set_policy.changes) as given (name)
    )
    into changed
    using set_policy.changes, set_policy.encoder;
    return changed;
end
$$;
comment on function voice.set_policy is
    'Changes values of an encoder''s policy together, each by its column''s name. Raises PT400, RV004, or the constraint that they break. Called by `retrocare policy set`.';
revoke execute on function voice.set_policy from public;
grant execute on function voice.set_policy to retrocare_service;
