-- Policies and settings: thresholds, weights and limits are rows, so that changing one is an update and not a release.
-- The defaults are the mission's values.

create table voice.policies (
    encoder text constraint policies_pkey primary key
        constraint a_policy_belongs_to_an_encoder references voice.encoders (id) on delete cascade,
    medium_above double precision not null default 0.25,
    high_above double precision not null default 0.40,
    critical_above double precision not null default 0.70,
    checkin_above double precision not null default 0.40
        constraint a_checkin_threshold_is_a_score check (checkin_above between 0 and 1),
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
    minimum_speech_seconds double precision not null default 3
        constraint some_speech_is_needed check (minimum_speech_seconds >= 0.5 and minimum_speech_seconds < 'infinity'),
    minimum_snr_db double precision not null default 8
        constraint a_minimum_snr_is_a_number check (minimum_snr_db > '-infinity' and minimum_snr_db < 'infinity'),
    maximum_clipped_share double precision not null default 0.01
        constraint a_clipped_share_is_a_share check (maximum_clipped_share between 0 and 1),
    maximum_call_seconds double precision not null default 3600
        constraint a_call_has_a_length check (maximum_call_seconds > 0 and maximum_call_seconds < 'infinity'),
    constraint thresholds_rise
        check (0 <= medium_above and medium_above < high_above and high_above < critical_above and critical_above <= 1),
    constraint time_windows_lie_within_the_day
        check (0 <= morning_start_hour and morning_start_hour + window_hours <= evening_start_hour
            and evening_start_hour + window_hours <= 24),
    constraint a_reduction_peaks_in_the_middle
        check (0 <= edge_reduction and edge_reduction <= middle_reduction and middle_reduction <= 1),
    constraint the_target_reaches_the_minimum check (baseline_target_samples >= baseline_minimum_samples)
);
alter table voice.policies enable row level security;
comment on table voice.policies is
    'What a score means, and what can be judged: one row per encoder, since thresholds are a property of the encoder.';
comment on column voice.policies.medium_above is 'Score above which severity is medium (a warning).';
comment on column voice.policies.high_above is 'Score above which severity is high (an emergency).';
comment on column voice.policies.critical_above is 'Score above which severity is critical.';
comment on column voice.policies.checkin_above is 'Score above which the day''s check-in shows the call.';
comment on column voice.policies.noisy_below_snr_db is 'A known SNR below this takes something off the score.';
comment on column voice.policies.noise_reduction is 'What an SNR of 0 dB takes off the score; nothing at noisy_below_snr_db.';
comment on column voice.policies.morning_start_hour is 'On the patient''s clock: where the morning window begins.';
comment on column voice.policies.evening_start_hour is 'On the patient''s clock: where the evening window begins.';
comment on column voice.policies.window_hours is 'Length of the morning and of the evening window.';
comment on column voice.policies.edge_reduction is 'Share taken off at a window''s edge; middle_reduction in its middle.';
comment on column voice.policies.minimum_speech_seconds is 'Less net speech than this is not assessable.';
comment on column voice.policies.maximum_call_seconds is 'A longer recording is not assessable.';
comment on column voice.policies.minimum_snr_db is 'A known SNR below this is not assessable.';
comment on column voice.policies.maximum_clipped_share is 'More clipped samples than this share are not assessable.';

create table voice.settings (
    is_only boolean constraint settings_pkey primary key default true
        constraint settings_are_one_row check (is_only),
    maximum_attempts integer not null default 5
        constraint a_check_is_tried_at_least_once check (maximum_attempts >= 1),
    retry_base_seconds double precision not null default 10
        constraint a_retry_waits check (retry_base_seconds > 0 and retry_base_seconds < 'infinity'),
    retry_cap_seconds double precision not null default 3600,
    delivery_maximum_attempts integer not null default 30
        constraint a_delivery_is_tried_at_least_once check (delivery_maximum_attempts >= 1),
    delivery_retry_cap_seconds double precision not null default 300
        constraint a_delivery_waits_at_most_a_day check (delivery_retry_cap_seconds between 1 and 86400),
    quiet_from time not null default '21:00',
    quiet_until time not null default '07:00',
    unusable_calls_in_a_row integer not null default 3
        constraint one_unusable_call_is_no_silence check (unusable_calls_in_a_row >= 2),
    illness_days integer not null default 14
        constraint an_illness_ends_within_a_year check (illness_days between 1 and 366),
    dashboard_url text
        constraint the_dashboard_is_on_the_web check (dashboard_url ~ '^https?://[^[:space:]]+$'),
    constraint the_retry_cap_is_not_below_the_base
        check (retry_cap_seconds >= retry_base_seconds and retry_cap_seconds < 'infinity')
);
insert into voice.settings default values;
alter table voice.settings enable row level security;
comment on table voice.settings is 'How the work lists and the alerts behave: one row.';
comment on column voice.settings.maximum_attempts is 'After as many failures or lost leases a check is dead.';
comment on column voice.settings.retry_cap_seconds is 'No wait is longer, but for a fifth of jitter.';
comment on column voice.settings.delivery_maximum_attempts is 'After as many refusals a delivery is dead, and the operator''s.';
comment on column voice.settings.delivery_retry_cap_seconds is 'As retry_cap_seconds, for messages to caregivers: thirty attempts bridge more than two hours.';
comment on column voice.settings.quiet_from is 'On the caregiver''s clock: warnings wait from here until quiet_until, where the caregiver says nothing else. The same time twice: no quiet hours.';
comment on column voice.settings.unusable_calls_in_a_row is 'As many answered calls in a row without usable speech raise an alert.';
comment on column voice.settings.illness_days is 'How long a patient whose alert was resolved as ill counts as unwell from then on.';
comment on column voice.settings.dashboard_url is 'Where messages send the caregiver to answer; null: they name no address.';
comment on column voice.settings.retry_base_seconds is 'The first wait after a failure; each further one is twice as long.';

create function voice.retry_wait(attempts integer, cap_seconds double precision default null)
returns interval
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select make_interval(secs => (0.8 + 0.4 * random()) * least(
        coalesce(retry_wait.cap_seconds, settings.retry_cap_seconds),
        settings.retry_base_seconds * 2 ^ least(retry_wait.attempts - 1, 30)))
    from voice.settings
$$;
comment on function voice.retry_wait is
    'How long the next try waits after so many: it doubles up to the cap (null: retry_cap_seconds), with a fifth of jitter. Called by whatever fails: checks, recordings, deliveries, deletions.';
revoke execute on function voice.retry_wait from public;

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
comment on function voice.policy is 'The encoder''s policy row. Raises RV004. Definer: the service reads its limits here.';
revoke execute on function voice.policy from public;
grant execute on function voice.policy to retrocare_service;
