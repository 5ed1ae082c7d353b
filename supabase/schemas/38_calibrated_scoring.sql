-- Calibrated scoring: how rare a call is for this patient. Pure functions of their arguments; nothing in this file writes a table.
--
--     expected distance   E = v(call) / 2 + sum of v(samples) / (2 n^2),  v = call_variance + speech_variance / seconds
--     deviation           w = (ln d - ln E - log_bias) / log_deviation              of the population
--     personal deviation  u = w against the mean and spread of this patient's own calls, as a standard normal deviate
--     sudden              a call with u or more comes by chance once in 1 / p(u) calls
--     sustained           CUSUM of the days' u; its average run length says how often it gets there by chance
--     score               0.25 = as rare as the warnings by chance that the family accepts, 0.40 = ten times rarer,
--                         0.70 = a hundred times rarer, 1 = a thousand times rarer
--     confirmation        a score stays a warning until two of the last three calls were far from usual
--
-- Sources: D. C. Montgomery, Introduction to Statistical Quality Control, 2013 (Shewhart and CUSUM charts; the average run length is
-- Siegmund's approximation); A. Gelman et al., Bayesian Data Analysis, 2013 (the predictive distribution of a normal variable with
-- unknown mean and variance); D. L. Wallace, Bounds on normal approximations to Student's and the chi-square distributions, 1959.

create type voice.observation as (
    is_clean boolean,
    distance double precision,
    expected_distance double precision,
    deviation double precision,
    log_likelihood_ratio double precision,
    whitened_deviation double precision,
    whitened_log_likelihood_ratio double precision
);
comment on type voice.observation is
    'What one call measures, before the patient''s history counts: is_clean tells whether its SNR is in the highest bin; the deviations are those of the population; a log-likelihood ratio below 0 says that another person is likelier. The whitened ones are null without a projection.';

create type voice.chart_state as (
    learned_calls integer,
    learned_mean double precision,
    learned_squares double precision,
    cusum double precision,
    day date,
    cusum_before_day double precision,
    day_calls integer,
    day_sum double precision,
    recent_deviations double precision[],
    recent_far boolean[],
    confirmed_level public.alert_level,
    calm_calls integer
);
comment on type voice.chart_state is
    'What is remembered of a patient''s calls: number, mean and sum of squares of the learned deviations; the CUSUM, and how far the present day moved it; the last ten deviations; whether the last two calls were far from usual; the level up to which a change is confirmed, and how many calm calls have followed.';

create type public.change_pace as enum (
    'sudden',       -- this call alone is rare
    'sustained'     -- the calls of the last days together are
);
comment on type public.change_pace is 'What decided a score.';

create type public.voice_verdict as enum (
    'as_usual',         -- the score is low
    'changed',          -- the score is not low
    'another_voice'     -- it did not sound like this person
);
comment on type public.voice_verdict is 'What a judgement of a voice says.';

create type voice.decision as (
    usual_mean double precision,
    usual_variance double precision,
    usual_degrees double precision,
    deviation double precision,
    cusum_before double precision,
    cusum_after double precision,
    unconfirmed_score double precision,
    score double precision,
    severity public.anomaly_severity,
    verdict public.voice_verdict,
    pace public.change_pace,
    is_urgent boolean,
    is_step boolean,
    is_learned boolean,
    after voice.chart_state
);
comment on type voice.decision is
    'How a call was judged, with every value on the way. deviation is the personal one; is_urgent tells that this call alone would be an emergency if another one confirmed it; is_step that a change came suddenly after steady calls, as with a new telephone or room; after is the chart after the call.';

create function voice.new_chart()
returns voice.chart_state
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (0, 0, 0, 0, null, 0, 0, 0, '{}', '{}', 'warning', 0)::voice.chart_state
$$;
comment on function voice.new_chart is 'Returns the chart of a patient of whom no call was judged.';
revoke execute on function voice.new_chart from public;

create function voice.settled_chart(chart voice.chart_state)
returns voice.chart_state
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    chart.cusum := 0;
    chart.cusum_before_day := 0;
    chart.day_calls := 0;
    chart.day_sum := 0;
    chart.recent_far := '{}';
    chart.confirmed_level := 'warning';
    chart.calm_calls := 0;
    return chart;
end
$$;
comment on function voice.settled_chart is
    'Returns the chart after somebody said that the patient is well: what was learned stays, and what pointed to a change is gone.';
revoke execute on function voice.settled_chart from public;

create function voice.expected_distance(call_variance double precision, sample_variance double precision)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select expected_distance.call_variance / 2 + expected_distance.sample_variance
$$;
comment on function voice.expected_distance is
    'Returns how far a healthy call lies from the baseline on average, given the call''s variance and that of the baseline (half the sum of its samples'' variances over the square of their number).';
revoke execute on function voice.expected_distance from public;

create function voice.population_deviation(
    distance double precision, expected_distance double precision, bin voice.calibration_bins
)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (ln(greatest(population_deviation.distance, 1e-6))
        - ln(population_deviation.expected_distance) - bin.log_bias) / bin.log_deviation
$$;
comment on function voice.population_deviation is
    'Returns by how many standard deviations of the population the logarithm of the distance exceeds what is expected.';
revoke execute on function voice.population_deviation from public;

create function voice.log_likelihood_ratio(
    distance double precision, expected_distance double precision, bin voice.calibration_bins
)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- Both are taken as normal in ln(distance), with the mean of their variances, and at least 0.15 apart.
    select (means.other - means.same) / ((bin.log_deviation ^ 2 + bin.other_log_deviation ^ 2) / 2)
        * ((means.same + means.other) / 2 - ln(greatest(log_likelihood_ratio.distance, 1e-6)))
    from (
        select
            ln(log_likelihood_ratio.expected_distance) + bin.log_bias as same,
            greatest(bin.other_log_mean, ln(log_likelihood_ratio.expected_distance) + bin.log_bias + 0.15) as other
    ) as means
$$;
comment on function voice.log_likelihood_ratio is
    'Returns the logarithm of how much likelier the distance is for the same person than for another. Below 0: another person is likelier.';
revoke execute on function voice.log_likelihood_ratio from public;

create function voice.observe(
    calibration voice.calibrations, reference extensions.vector, sample_variance double precision,
    whitened_anchor extensions.vector, whitened_sample_variance double precision, "current" extensions.vector,
    speech_seconds double precision, snr_db double precision
)
returns voice.observation
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    bin constant voice.calibration_bins := voice.calibration_bin(calibration.id, 'raw', observe.snr_db);
    whitened_bin voice.calibration_bins;
    whitened_distance double precision;
    whitened_expected double precision;
    observed voice.observation;
begin
    observed.is_clean := not exists (
        select from voice.calibration_bins
        where calibration_bins.calibration_id = calibration.id
            and calibration_bins.space = 'raw'
            and calibration_bins.snr_from > coalesce(observe.snr_db, '-infinity')
    );
    observed.distance := 1 - voice.raw_similarity(observe.reference, observe."current");
    observed.expected_distance := voice.expected_distance(
        bin.call_variance + bin.speech_variance / observe.speech_seconds, observe.sample_variance);
    observed.deviation := voice.population_deviation(observed.distance, observed.expected_distance, bin);
    observed.log_likelihood_ratio := voice.log_likelihood_ratio(observed.distance, observed.expected_distance, bin);
    if observe.whitened_anchor is not null then
        whitened_bin := voice.calibration_bin(calibration.id, 'whitened', observe.snr_db);
        whitened_distance := 1 - voice.raw_similarity(observe.whitened_anchor, voice.whiten(observe."current", calibration.id));
        whitened_expected := voice.expected_distance(
            whitened_bin.call_variance + whitened_bin.speech_variance / observe.speech_seconds, observe.whitened_sample_variance);
        observed.whitened_deviation := voice.population_deviation(whitened_distance, whitened_expected, whitened_bin);
        observed.whitened_log_likelihood_ratio := voice.log_likelihood_ratio(whitened_distance, whitened_expected, whitened_bin);
    end if;
    return observed;
end
$$;
comment on function voice.observe is
    'Measures a call against a baseline: reference is what the raw distance is measured from, whitened_anchor (null without a projection) the whitened baseline; the sample variances are those of voice.expected_distance. Raises RV005 for vectors that cannot be compared.';
revoke execute on function voice.observe from public;

create function voice.normal_deviate(t double precision, degrees double precision)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    -- 2 atanh(x / (2 + x)) is ln(1 + x), also where x is next to nothing.
    return sign(t) * (8 * degrees + 1) / (8 * degrees + 3) * sqrt(degrees * 2 * atanh(t ^ 2 / (2 * degrees + t ^ 2)));
end
$$;
comment on function voice.normal_deviate is
    'Returns the normal deviate that is as rare as this value of Student''s distribution (Wallace 1959, error below 0.01 up to 4).';
revoke execute on function voice.normal_deviate from public;

create function voice.rarity_score(
    chance double precision, calls_per_year double precision, warnings_per_year double precision
)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    -- How many times rarer, in powers of ten; half of the warnings are left to the sudden part, half to the sustained one.
    decades constant double precision := log(warnings_per_year / (2 * calls_per_year * chance));
    of_any_call constant double precision := log(warnings_per_year / calls_per_year);
begin
    -- These points are the scale itself, with which the thresholds of severity, which are data, are compared.
    return case
        when decades <= of_any_call then 0
        when decades < 0 then 0.25 * (1 - decades / of_any_call)
        when decades < 1 then 0.25 + 0.15 * decades
        when decades < 2 then 0.40 + 0.30 * (decades - 1)
        when decades < 3 then 0.70 + 0.30 * (decades - 2)
        else 1
    end;
end
$$;
comment on function voice.rarity_score is
    'Returns the score of something that comes by chance in this share of calls: 0.25 if half of the accepted warnings a year would be as rare, 0.40, 0.70 and 1 if ten, a hundred and a thousand times fewer; 0 for what half of all calls reach.';
revoke execute on function voice.rarity_score from public;

create function voice.chance_of_deviation(deviation double precision)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return erfc(least(8, greatest(0, deviation)) / sqrt(2::double precision)) / 2;
end
$$;
comment on function voice.chance_of_deviation is 'Returns in which share of healthy calls a deviation is at least this large; at most a half.';
revoke execute on function voice.chance_of_deviation from public;

create function voice.chance_of_cusum(cusum double precision, allowance double precision)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Siegmund's approximation of the average run length, with 2 * 0.583 for what a CUSUM in steps overshoots its limit.
    height constant double precision := 2 * allowance * (cusum + 1.166);
begin
    return 2 * allowance ^ 2 / (exp(height) - height - 1);
end
$$;
comment on function voice.chance_of_cusum is
    'Returns one over the average number of healthy days after which the CUSUM reaches this height.';
revoke execute on function voice.chance_of_cusum from public;

create function voice.highest_score(level public.alert_level, thresholds care.thresholds)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return case level
        when 'warning' then greatest(thresholds.high_above - 0.01, (thresholds.medium_above + thresholds.high_above) / 2)
        when 'emergency' then greatest(thresholds.critical_above - 0.01, (thresholds.high_above + thresholds.critical_above) / 2)
        else 1
    end;
end
$$;
comment on function voice.highest_score is 'Returns the highest score that is given as long as only this level is confirmed.';
revoke execute on function voice.highest_score from public;

create function voice.decide(
    chart voice.chart_state, observed voice.observation, calibration voice.calibrations, thresholds care.thresholds,
    warnings_per_year double precision, calls_per_year double precision, day date, is_healthy boolean, is_late boolean
)
returns voice.decision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    decided voice.decision;
    state voice.chart_state := decide.chart;  -- becomes the chart after the call
    kappa constant double precision := calibration.prior_variance / calibration.prior_mean_variance;
    learned constant double precision := state.learned_calls;
    deviation constant double precision := observed.deviation;
    whitened constant double precision := observed.whitened_deviation;
    scale double precision;     -- standard deviation of the next call of this patient
    student double precision;
    is_named boolean;
    is_far boolean;
    unconfirmed_level public.alert_level;
    sudden_score double precision;
    sustained_score double precision := 0;
    learned_deviation double precision;
    step_from_mean double precision;
begin
    -- greatest(0, least(8, 'NaN')) is 8: a NaN that is clipped becomes an emergency.
    if deviation = 'NaN' or whitened = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The deviation of the call is not a number';
    end if;

    if decide.day - state.day > calibration.settles_after_days and not decide.is_late then
        state := voice.settled_chart(state);
    end if;

    -- 1 How unusual is this for this patient?
    decided.usual_mean := learned * state.learned_mean / (learned + kappa);
    decided.usual_degrees := calibration.prior_degrees + learned;
    decided.usual_variance := (calibration.prior_degrees * calibration.prior_variance + state.learned_squares
        + learned * kappa / (learned + kappa) * state.learned_mean ^ 2) / decided.usual_degrees;
    scale := sqrt(decided.usual_variance * (1 + 1 / (learned + kappa)));
    student := (deviation - decided.usual_mean) / scale;
    decided.deviation := voice.normal_deviate(student, decided.usual_degrees);

    -- 2 Is it this patient at all? On a clean line both spaces must say no; below, the whitened one tells voices apart better.
    is_named := case
        when whitened is null then decided.deviation > calibration.named_above and observed.log_likelihood_ratio < 0
        when observed.is_clean then decided.deviation > calibration.named_above
            and observed.log_likelihood_ratio < 0 and observed.whitened_log_likelihood_ratio < 0
        else whitened > calibration.named_above and observed.whitened_log_likelihood_ratio < 0
    end;

    -- 3 Has it been so for days? The CUSUM moves once a day, by the mean of the day.
    decided.cusum_before := state.cusum;
    if not is_named and not decide.is_late then
        if state.day is distinct from decide.day then
            state.day := decide.day;
            state.cusum_before_day := state.cusum;
            state.day_calls := 0;
            state.day_sum := 0;
        end if;
        state.day_calls := state.day_calls + 1;
        state.day_sum := state.day_sum + decided.deviation;
        state.cusum := least(calibration.maximum_cusum, greatest(0, state.cusum_before_day - calibration.cusum_allowance
            + greatest(-calibration.deviation_limit, least(calibration.deviation_limit, state.day_sum / state.day_calls))));
        -- There is at most one step a day.
        sustained_score := voice.rarity_score(
            voice.chance_of_cusum(state.cusum, calibration.cusum_allowance), least(decide.calls_per_year, 365), decide.warnings_per_year);
    end if;
    decided.cusum_after := state.cusum;

    -- 4 How rare is that?
    sudden_score := voice.rarity_score(
        voice.chance_of_deviation(
            case when is_named and not observed.is_clean and whitened is not null then whitened else decided.deviation end),
        decide.calls_per_year, decide.warnings_per_year);
    decided.pace := case when sustained_score > sudden_score then 'sustained' else 'sudden' end::public.change_pace;
    decided.unconfirmed_score := greatest(sudden_score, sustained_score);

    -- 5 Is it confirmed? A single call is never more than a warning.
    is_far := is_named or decided.deviation >= calibration.far_above;
    decided.score := decided.unconfirmed_score;
    decided.severity := care.severity(decided.score, decide.thresholds);
    decided.is_urgent := false;
    decided.is_step := false;
    if decided.severity > 'low' then
        unconfirmed_level := care.alert_level(decided.severity);
        if is_far and true = any (state.recent_far) and not decide.is_late then
            state.confirmed_level := greatest(state.confirmed_level, unconfirmed_level);
        end if;
        decided.score := least(decided.score, voice.highest_score(state.confirmed_level, decide.thresholds));
        decided.severity := care.severity(decided.score, decide.thresholds);
        decided.is_urgent := state.confirmed_level = 'warning'
            and care.severity(sudden_score, decide.thresholds) > care.severity(decided.score, decide.thresholds);
        decided.is_step := is_far
            and cardinality(state.recent_deviations) = 10
            and (select avg(recent.deviation) from unnest(state.recent_deviations) as recent (deviation)) < calibration.steady_below;
    end if;
    decided.verdict := case
        when is_named then 'another_voice'
        when decided.severity > 'low' then 'changed'
        else 'as_usual'
    end::public.voice_verdict;
    if not decide.is_late then
        state.recent_far := (state.recent_far || is_far)[greatest(1, cardinality(state.recent_far)):];
    end if;

    -- 6 What is remembered of it?
    decided.is_learned := decide.is_healthy and not is_named and not decide.is_late and state.learned_calls < calibration.learning_calls;
    if decided.is_learned then
        -- An extreme call counts less; were it left out, the spread would stay too small, and alarms would never end.
        learned_deviation := greatest(decided.usual_mean - calibration.winsorised_at * scale,
            least(decided.usual_mean + calibration.winsorised_at * scale, deviation));
        state.learned_calls := state.learned_calls + 1;
        step_from_mean := learned_deviation - state.learned_mean;
        state.learned_mean := state.learned_mean + step_from_mean / state.learned_calls;
        state.learned_squares := state.learned_squares + step_from_mean * (learned_deviation - state.learned_mean);
    end if;
    if not decide.is_late then
        if not is_named then
            state.recent_deviations := (state.recent_deviations || decided.deviation)[greatest(1, cardinality(state.recent_deviations) - 8):];
        end if;
        state.calm_calls := case when decided.unconfirmed_score < decide.thresholds.medium_above then state.calm_calls + 1 else 0 end;
        if state.calm_calls >= 3 then
            state.confirmed_level := 'warning';
        end if;
    end if;
    decided.after := state;
    return decided;
end
$$;
comment on function voice.decide is
    'Judges a call by the patient''s chart and returns the decision with the chart after it. warnings_per_year is how many warnings by chance are accepted; a late call (is_late), which began before one that was judged already, neither changes the chart nor is confirmed by it; only a healthy call is learned from. Raises RV005 for NaN. Called by voice.score_call and voice.replay.';
revoke execute on function voice.decide from public;
