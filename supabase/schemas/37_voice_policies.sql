-- Policies of voice: the rule, weights and limits are rows, so changing one is an update, not a release. Their defaults are the specified
-- values. The thresholds are in care.thresholds.

create table voice.policies (
    encoder text constraint policies_pkey primary key
        constraint a_policy_belongs_to_an_encoder references voice.encoders (id) on delete cascade,
    rule public.scoring_rule not null default 'fixed',
    calibration_id integer,
    noisy_below_snr_db double precision not null default 15
        constraint the_noisy_line_is_positive check (noisy_below_snr_db > 0 and noisy_below_snr_db < 'infinity'),
    noise_reduction double precision not null default 0.20
        constraint a_noise_reduction_is_a_share check (noise_reduction between 0 and 1),
    morning_start_hour double precision not null default 6,
    evening_start_hour double precision not null default 18,
    window_hours double precision not null default 3
        constraint a_time_window_has_a_length check (window_hours > 0 and window_hours <= 12),
    edge_reduction double precision not null default 0.05,
    middle_reduction double precision not null default 0.10,
    baseline_minimum_samples integer not null default 3
        constraint a_baseline_needs_a_sample check (baseline_minimum_samples >= 1),
    baseline_target_samples integer not null default 5,
    calibrated_target_samples integer not null default 10,
    minimum_speech_seconds double precision not null default 3
        constraint some_speech_is_needed check (minimum_speech_seconds >= 0.5 and minimum_speech_seconds < 'infinity'),
    minimum_snr_db double precision not null default 8
        constraint a_minimum_snr_is_a_number check (minimum_snr_db > '-infinity' and minimum_snr_db < 'infinity'),
    maximum_clipped_share double precision not null default 0.01
        constraint a_clipped_share_is_a_share check (maximum_clipped_share between 0 and 1),
    maximum_call_seconds double precision not null default 3600
        constraint a_call_has_a_length check (maximum_call_seconds > 0 and maximum_call_seconds < 'infinity'),
    constraint time_windows_lie_within_the_day
        check (0 <= morning_start_hour and morning_start_hour + window_hours <= evening_start_hour
            and evening_start_hour + window_hours <= 24),
    constraint a_reduction_peaks_in_the_middle
        check (0 <= edge_reduction and edge_reduction <= middle_reduction and middle_reduction <= 1),
    constraint the_target_reaches_the_minimum check (baseline_target_samples >= baseline_minimum_samples),
    constraint the_calibrated_target_reaches_the_minimum check (calibrated_target_samples >= baseline_minimum_samples),
    constraint a_policy_uses_a_calibration_of_its_encoder
        foreign key (calibration_id, encoder) references voice.calibrations (id, encoder),
    constraint the_calibrated_rule_needs_a_calibration check (rule <> 'calibrated' or calibration_id is not null)
);
create index policies_by_calibration on voice.policies (calibration_id);
alter table voice.policies enable row level security;
comment on table voice.policies is
    'How a voice is scored, and which recordings can be judged. One row per encoder. The meaning of a score is in care.thresholds.';
comment on column voice.policies.rule is 'How calls are scored. An encoder gets the calibrated rule together with its first calibration.';
comment on column voice.policies.calibration_id is
    'The calibration in use. Under the fixed rule its measures are only logged, so that the calibrated rule can be tried on them.';
comment on column voice.policies.calibrated_target_samples is 'How many samples a baseline gets under the calibrated rule; baseline_target_samples is for the fixed one.';
comment on column voice.policies.noisy_below_snr_db is 'A known SNR below this reduces the score.';
comment on column voice.policies.noise_reduction is
    'How much an SNR of 0 dB reduces the score; the reduction falls to nothing at noisy_below_snr_db.';
comment on column voice.policies.morning_start_hour is 'Start of the morning window, in the patient''s time zone.';
comment on column voice.policies.evening_start_hour is 'Start of the evening window, in the patient''s time zone.';
comment on column voice.policies.window_hours is 'Length of the morning window and of the evening window.';
comment on column voice.policies.edge_reduction is
    'Share by which the score is reduced at the edge of a window; middle_reduction applies in its middle.';
comment on column voice.policies.minimum_speech_seconds is 'A recording with less net speech is not assessable.';
comment on column voice.policies.maximum_call_seconds is 'A longer recording is not assessable.';
comment on column voice.policies.minimum_snr_db is 'A recording with a known SNR below this is not assessable.';
comment on column voice.policies.maximum_clipped_share is 'A recording with a larger share of clipped samples is not assessable.';
grant select (
    encoder, rule, calibration_id, baseline_minimum_samples, baseline_target_samples, calibrated_target_samples
) on voice.policies to authenticated, service_role;

create function voice.target_samples(policy voice.policies)
returns integer
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case policy.rule when 'calibrated' then policy.calibrated_target_samples else policy.baseline_target_samples end
$$;
comment on function voice.target_samples is 'Returns how many samples a baseline gets under the policy''s rule.';
revoke execute on function voice.target_samples from public;

create function voice.policy(encoder text)
returns voice.policies
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    found_policy voice.policies;
begin
    select policies.* into found_policy
    from voice.policies
    where policies.encoder = policy.encoder;
    if not found then
        raise exception using
            errcode = 'RV004',
            message = format('No encoder %s is registered', policy.encoder),
            hint = 'A service registers its encoder when it starts.';
    end if;
    return found_policy;
end
$$;
comment on function voice.policy is
    'Returns the policy of an encoder. Raises RV004. Security definer: the service may not read the table, and gets its limits here.';
revoke execute on function voice.policy from public;
grant execute on function voice.policy to retrocare_service;

create function voice.policy_values(encoder text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select to_jsonb(voice.policy(policy_values.encoder))
        || (to_jsonb(care.thresholds_for(policy_values.encoder)) - '{id,organisation_id,signal,model}'::text[])
$$;
comment on function voice.policy_values is
    'Returns all thresholds, weights and limits of an encoder by name. Raises RV004. Security definer: the service may not read the tables. Called by `retrocare policy show`.';
revoke execute on function voice.policy_values from public;
grant execute on function voice.policy_values to retrocare_service;

create function voice.set_policy(encoder text, changes jsonb)
returns jsonb
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    changed record;
    unknown text := (
        select string_agg(given.name, ', ')
        from jsonb_object_keys(set_policy.changes) as given (name)
        where given.name = 'encoder' or not voice.policy_values(set_policy.encoder) ? given.name
    );
begin
    if unknown is not null then
        raise exception using
            errcode = 'PT400',
            message = format('There is no threshold or limit named %s', unknown),
            hint = 'List the names with `retrocare policy show`.';
    end if;
    for changed in
        select rules.relation, rules.key,
            string_agg(format('%1$I = (jsonb_populate_record(null::%2$s, $1)).%1$I', attribute.attname, rules.relation), ', ') as assignments
        from (values
            ('voice.policies'::regclass, 'encoder = $2'),
            ('care.thresholds'::regclass, 'model = $2 and organisation_id is null')
        ) as rules (relation, key)
        join pg_catalog.pg_attribute as attribute on attribute.attrelid = rules.relation and set_policy.changes ? attribute.attname
        where attribute.attnum > 0 and not attribute.attisdropped
        group by rules.relation, rules.key
    loop
        execute format('update %s set %s where %s', changed.relation, changed.assignments, changed.key)
        using set_policy.changes, set_policy.encoder;
    end loop;
    return voice.policy_values(set_policy.encoder);
end
$$;
comment on function voice.set_policy is
    'Changes values of an encoder''s policy and thresholds by column name, and returns all of them as they are then. Raises PT400, RV004, or a violation of their constraints. Called by `retrocare policy set`.';
revoke execute on function voice.set_policy from public;
grant execute on function voice.set_policy to retrocare_service;

create function voice.use_calibration(encoder text, calibration_id integer)
returns void
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update voice.policies
    set rule = 'calibrated', calibration_id = use_calibration.calibration_id
    where policies.encoder = use_calibration.encoder
        and exists (
            select from voice.calibrations
            where calibrations.id = use_calibration.calibration_id and calibrations.encoder = use_calibration.encoder
        );
    if not found then
        raise exception using
            errcode = 'RV004',
            message = format('The encoder %s has no calibration %s', use_calibration.encoder, use_calibration.calibration_id),
            hint = 'voice.add_calibration returns the id of a calibration.';
    end if;
end
$$;
comment on function voice.use_calibration is
    'Judges by this calibration, under the calibrated rule, from the next call on. Raises RV004. Security definer: the service has no privileges on tables. Called by `retrocare calibrate`.';
revoke execute on function voice.use_calibration from public;
grant execute on function voice.use_calibration to retrocare_service;

create function voice.ship_calibration(encoder text, parameters jsonb)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    added_id constant integer := voice.add_calibration(ship_calibration.encoder, ship_calibration.parameters);
begin
    if (voice.policy(ship_calibration.encoder)).calibration_id is null then
        perform voice.use_calibration(ship_calibration.encoder, added_id);
    end if;
    return added_id;
end
$$;
comment on function voice.ship_calibration is
    'Stores the calibration that comes with an encoder, and uses it if the encoder has none yet. Returns its id. Raises PT400, RV004. Security definer: the service has no privileges on tables. Called by the service at start.';
revoke execute on function voice.ship_calibration from public;
grant execute on function voice.ship_calibration to retrocare_service;

create function voice.calibration_document(encoder text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        'id', calibrations.id,
        'encoder', calibrations.encoder,
        'provenance', calibrations.provenance,
        'bins', (
            select jsonb_object_agg(spaces.space, spaces.bins)
            from (
                select bins.space, jsonb_agg(to_jsonb(bins) - '{calibration_id,space}'::text[] order by bins.snr_from desc) as bins
                from voice.calibration_bins as bins
                where bins.calibration_id = calibrations.id
                group by bins.space
            ) as spaces
        ),
        'prior', jsonb_build_object(
            'degrees', calibrations.prior_degrees, 'variance', calibrations.prior_variance,
            'mean_variance', calibrations.prior_mean_variance),
        'projection', (
            select jsonb_build_object(
                'weights', jsonb_agg(projection_rows.weights::text::jsonb order by projection_rows.row_number),
                'offsets', jsonb_agg(projection_rows.row_offset order by projection_rows.row_number))
            from voice.projection_rows
            where projection_rows.calibration_id = calibrations.id
            having count(*) > 0
        ),
        'limits', to_jsonb(calibrations)
            - '{id,encoder,digest,provenance,prior_degrees,prior_variance,prior_mean_variance,created_at}'::text[]
    )
    from voice.policies
    join voice.calibrations on calibrations.id = policies.calibration_id
    where policies.encoder = calibration_document.encoder
$$;
comment on function voice.calibration_document is
    'Returns the calibration in use, as `retrocare calibrate` makes it, with its id and limits. Null: the encoder has none. Security definer: the service has no privileges on tables. Called by `retrocare evaluate`.';
revoke execute on function voice.calibration_document from public;
grant execute on function voice.calibration_document to retrocare_service;

create policy caregivers_read_how_many_samples_a_baseline_needs on voice.policies
    for select to authenticated
    using (true);
