-- Voice explanations: what is unusual about how a patient speaks on a call, in the patient's own deviations. They explain a judgement
-- and are never part of it.
--
-- The service measures five features of each recording (voice.embeddings.quality, "features"). A feature is compared with the patient's
-- healthy calls by the predictive distribution of a normal variable whose mean and variance are not known, under the prior in
-- voice.features (c calls with that mean and m2; kappa = within_deviation^2 / between_deviation^2):
--
--     expected  = (c * mean + kappa * population_mean) / (c + kappa)
--     variance  = (degrees * within_deviation^2 + m2 + c * kappa / (c + kappa) * (mean - population_mean)^2) / (degrees + c)
--     t         = (value - expected) / sqrt(variance * (1 + 1 / (c + kappa)))          Student, degrees + c degrees of freedom
--     deviation = t as a normal deviate                                                Wallace, error below 0.01

create table voice.features (
    id text constraint features_pkey primary key
        constraint a_feature_is_one_word check (id ~ '^[a-z_]+$'),
    name text not null,
    unit text not null,
    population_mean double precision not null,
    between_deviation double precision not null
        constraint people_differ_in_a_feature check (between_deviation > 0 and between_deviation < 'infinity'),
    within_deviation double precision not null
        constraint calls_differ_in_a_feature check (within_deviation > 0 and within_deviation < 'infinity'),
    degrees double precision not null
        constraint a_prior_has_degrees_of_freedom check (degrees > 0 and degrees < 'infinity'),
    above_reason text not null,
    below_reason text not null,
    said_beyond double precision not null default 2
        constraint what_is_usual_is_not_said check (said_beyond > 0),
    minimum_calls integer not null default 5
        constraint a_comparison_needs_a_call check (minimum_calls >= 1),
    learned_calls integer not null default 60,
    learned_within double precision not null default 3
        constraint a_learned_value_lies_within_a_range check (learned_within > 0),
    constraint enough_calls_are_learned check (learned_calls >= minimum_calls)
);
alter table voice.features enable row level security;
insert into voice.features
    (id, name, unit, population_mean, between_deviation, within_deviation, degrees, above_reason, below_reason)
values
    ('pitch', 'Median pitch', 'semitones above 100 Hz', 7.6, 5.5, 1.2, 6, 'higher_voice', 'lower_voice'),
    ('pitch_spread', 'Pitch, from the 10th to the 90th percentile', 'semitones', 7.4, 2.1, 1.3, 7, 'livelier', 'flatter'),
    ('syllable_rate', 'Syllables', 'per second of speech', 3.7, 0.61, 0.31, 7, 'faster', 'slower'),
    ('pause_share', 'Pauses', 'share of the time in which the patient has the word', 0.13, 0.074, 0.070, 12, 'longer_pauses', 'shorter_pauses'),
    ('tilt', 'Power at 1 to 3.4 kHz over that at 0.3 to 1 kHz', 'dB', -5.7, 4.1, 1.4, 8, 'brighter', 'duller');
comment on table voice.features is
    'The features of speech that explain a judgement, and the prior under which a call is compared with the patient''s own. The values are those of public recordings in a telephone''s band (`scripts/bench features`).';
comment on column voice.features.id is 'The name under which the service stores the measure, in voice.embeddings.quality, "features".';
comment on column voice.features.population_mean is 'The mean over people.';
comment on column voice.features.between_deviation is 'The standard deviation of people''s means.';
comment on column voice.features.within_deviation is 'The standard deviation of one person''s calls, over people in general.';
comment on column voice.features.degrees is 'How many calls of the patient count as much as within_deviation does.';
comment on column voice.features.above_reason is 'The reason that is given for a value above the usual ones; its words are in care.reason_texts.';
comment on column voice.features.below_reason is 'The reason that is given for a value below the usual ones.';
comment on column voice.features.said_beyond is 'A deviation beyond this, in either direction, is a reason. It is a normal deviate.';
comment on column voice.features.minimum_calls is 'Nothing is said before so many healthy calls of the patient have been learned.';
comment on column voice.features.learned_calls is 'After so many calls, what is usual no longer changes.';
comment on column voice.features.learned_within is
    'A value further from the expected one than so many deviations is learned as if it were only so far.';

create table voice.usual_features (
    patient_id uuid not null
        constraint usual_features_are_of_a_patient references public.patients (id) on delete cascade,
    feature text not null
        constraint what_is_usual_is_a_feature references voice.features (id) on delete cascade,
    call_count integer not null
        constraint something_usual_was_heard check (call_count >= 1),
    mean double precision not null,
    m2 double precision not null
        constraint squares_add_up_to_no_less_than_0 check (m2 >= 0 and m2 < 'infinity'),
    updated_at timestamptz not null default now(),
    constraint usual_features_pkey primary key (patient_id, feature)
);
create index usual_features_by_feature on voice.usual_features (feature);
alter table voice.usual_features enable row level security;
comment on table voice.usual_features is
    'How a patient usually speaks: the statistics of each feature over the first healthy calls. They are biometric data.';
comment on column voice.usual_features.m2 is 'The sum of the squared deviations from the mean.';

create type voice.expected_feature as (
    expected double precision,
    deviation double precision,
    degrees double precision
);
comment on type voice.expected_feature is
    'What the next call of a patient is expected to measure: a Student distribution around expected, with the scale deviation and so many degrees of freedom.';

create function voice.expected_feature(feature voice.features, usual voice.usual_features)
returns voice.expected_feature
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select
        (calls * coalesce(usual.mean, 0) + kappa * feature.population_mean) / (calls + kappa),
        sqrt(
            (
                feature.degrees * feature.within_deviation ^ 2
                + coalesce(usual.m2, 0)
                + calls * kappa / (calls + kappa) * (coalesce(usual.mean, 0) - feature.population_mean) ^ 2
            )
            / (feature.degrees + calls) * (1 + 1 / (calls + kappa))),
        feature.degrees + calls
    from (select coalesce(usual.call_count, 0), (feature.within_deviation / feature.between_deviation) ^ 2) as prior (calls, kappa)
$$;
comment on function voice.expected_feature is
    'Returns what a patient''s next call is expected to measure. Without usual values (null), it is what anybody''s would.';
revoke execute on function voice.expected_feature from public;

create function voice.measured_features(quality jsonb)
returns table (feature voice.features, value double precision)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select features, measured.value::double precision
    from voice.features
    cross join lateral (
        select case when jsonb_typeof(found) = 'number' then found::numeric end
        from (select measured_features.quality -> 'features' -> features.id) as given (found)
    ) as measured (value)
    -- Nothing that can be heard is larger, and an explanation must not fail a judgement.
    where abs(measured.value) < 1e6
$$;
comment on function voice.measured_features is
    'Returns the features that were measured on a call. Those that its line did not allow are missing.';
revoke execute on function voice.measured_features from public;

create function voice.unusual_features(patient_id uuid, quality jsonb)
returns table (reason text, deviation double precision)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select case when compared.deviation > 0 then (compared.feature).above_reason else (compared.feature).below_reason end, compared.deviation
    from (
        select
            measured.feature,
            voice.normal_deviate((measured.value - expected.expected) / expected.deviation, expected.degrees) as deviation
        from voice.measured_features(unusual_features.quality) as measured
        join voice.usual_features as usual
            on usual.patient_id = unusual_features.patient_id
            and usual.feature = (measured.feature).id
            and usual.call_count >= (measured.feature).minimum_calls
        cross join lateral voice.expected_feature(measured.feature, usual) as expected
    ) as compared
    where abs(compared.deviation) > (compared.feature).said_beyond
    order by abs(compared.deviation) desc
    limit 3
$$;
comment on function voice.unusual_features is
    'Returns what is unusual about how this patient speaks on a call, the most unusual first and at most three, with the deviation as a normal deviate. Returns nothing before enough healthy calls were learned.';
revoke execute on function voice.unusual_features from public;

create function voice.learn_features(patient_id uuid, quality jsonb)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into voice.usual_features as usual (patient_id, feature, call_count, mean, m2)
    select
        learn_features.patient_id,
        (measured.feature).id,
        1,
        greatest(
            expected.expected - (measured.feature).learned_within * expected.deviation,
            least(expected.expected + (measured.feature).learned_within * expected.deviation, measured.value)),
        0
    from voice.measured_features(learn_features.quality) as measured
    left join voice.usual_features as present
        on present.patient_id = learn_features.patient_id and present.feature = (measured.feature).id
    cross join lateral voice.expected_feature(measured.feature, present) as expected
    where coalesce(present.call_count, 0) < (measured.feature).learned_calls
    on conflict on constraint usual_features_pkey do update
    set call_count = usual.call_count + 1,
        mean = usual.mean + (excluded.mean - usual.mean) / (usual.call_count + 1),
        m2 = usual.m2 + (excluded.mean - usual.mean) ^ 2 * usual.call_count / (usual.call_count + 1),
        updated_at = now()
$$;
comment on function voice.learn_features is
    'Adds a healthy call to what is usual for a patient. The caller has called care.lock_patient.';
revoke execute on function voice.learn_features from public;
