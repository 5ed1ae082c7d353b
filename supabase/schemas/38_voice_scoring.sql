-- Voice scoring: pure functions of their arguments. Nothing in this file writes a table.
--
--     raw_similarity = 1 - (baseline <=> current)                                  -1 .. 1
--     anomaly        = clamp(1 - raw_similarity, 0, 1)
--     noise          : a known SNR below 15 dB subtracts 0.20 * (15 - max(snr, 0)) / 15, not below 0
--     time of day    : in the morning and evening of the patient's time zone, multiplied by 1 - r,
--                      r = 0.05 + 0.05 * (1 - |t - middle| / 1.5)
--     severity       : low <= 0.25 < medium <= 0.40 < high <= 0.70 < critical      (care.severity)
--
-- The numbers are the defaults of voice.policies and care.thresholds. Null means unknown, never zero; functions return it early,
-- because greatest() ignores it. NaN raises: `NaN > 0.5` is true, and greatest(0, least(1, 'NaN')) is 1, a false critical.

create type voice.comparison as (
    raw_similarity double precision,
    anomaly double precision,
    score double precision,
    severity public.anomaly_severity,
    alert_type public.alert_type,
    noise_adjusted boolean
);
comment on type voice.comparison is
    'A score and the values that explain it: anomaly is the score before adjustments, and noise_adjusted tells whether the adjustments changed the severity.';

create function voice.raw_similarity(baseline extensions.vector, "current" extensions.vector)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    similarity double precision;
begin
    if extensions.vector_dims(baseline) <> extensions.vector_dims("current") then
        raise exception using
            errcode = 'RV005',
            message = format('Vectors of %s and %s dimensions cannot be compared',
                extensions.vector_dims(baseline), extensions.vector_dims("current")),
            hint = 'Both must come from the same encoder.';
    end if;
    similarity := 1 - (baseline operator(extensions.<=>) "current");
    if similarity = 'NaN' then
        raise exception using
            errcode = 'RV005',
            message = 'The similarity is not a number',
            hint = 'One of the vectors is the zero vector.';
    end if;
    return similarity;
end
$$;
comment on function voice.raw_similarity is
    'Returns the cosine similarity, -1 .. 1, which is 1 - cosine distance. Raises RV005 for the zero vector and for different dimensions.';
revoke execute on function voice.raw_similarity from public;

create function voice.anomaly(raw_similarity double precision)
returns double precision
language plpgsql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if anomaly.raw_similarity = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The similarity is not a number';
    end if;
    return greatest(0, least(1, 1 - anomaly.raw_similarity));
end
$$;
comment on function voice.anomaly is
    'Returns 1 - raw_similarity, clamped to 0 .. 1: 0 = as usual, 1 = completely different. Raises RV005 for NaN.';
revoke execute on function voice.anomaly from public;

create function voice.noise_adjusted(anomaly double precision, snr_db double precision, policy voice.policies)
returns double precision
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if noise_adjusted.snr_db = 'NaN' then
        raise exception using errcode = 'RV005', message = 'The SNR is not a number', hint = 'Use null for an unknown SNR.';
    end if;
    if noise_adjusted.anomaly is null or policy.noisy_below_snr_db is null then
        return null;
    end if;
    if noise_adjusted.snr_db is null or noise_adjusted.snr_db >= policy.noisy_below_snr_db then
        return noise_adjusted.anomaly;
    end if;
    return greatest(0, noise_adjusted.anomaly - policy.noise_reduction
        * (policy.noisy_below_snr_db - greatest(noise_adjusted.snr_db, 0)) / policy.noisy_below_snr_db);
end
$$;
comment on function voice.noise_adjusted is
    'Returns the anomaly reduced by what noise may explain; an unknown SNR (null) reduces nothing. Raises RV005 for NaN.';
revoke execute on function voice.noise_adjusted from public;

create function voice.time_adjusted(anomaly double precision, local_hour double precision, policy voice.policies)
returns double precision
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select time_adjusted.anomaly * (1 - coalesce(
        (
            select policy.edge_reduction + (policy.middle_reduction - policy.edge_reduction)
                * (1 - abs(time_adjusted.local_hour - (start_hour + policy.window_hours / 2)) / (policy.window_hours / 2))
            from (values (policy.morning_start_hour), (policy.evening_start_hour)) as time_windows (start_hour)
            where time_adjusted.local_hour >= start_hour
                and time_adjusted.local_hour < start_hour + policy.window_hours
            limit 1
        ), 0))
$$;
comment on function voice.time_adjusted is
    'Returns the anomaly reduced by what the time of day may explain; local_hour has a fraction, 0 .. 24. An unknown hour (null) reduces nothing.';
revoke execute on function voice.time_adjusted from public;

create function voice.judge(
    baseline extensions.vector,
    "current" extensions.vector,
    snr_db double precision,
    local_hour double precision,
    policy voice.policies,
    thresholds care.thresholds
)
returns voice.comparison
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    judged voice.comparison;
begin
    judged.raw_similarity := voice.raw_similarity(judge.baseline, judge."current");
    judged.anomaly := voice.anomaly(judged.raw_similarity);
    judged.score := voice.time_adjusted(
        voice.noise_adjusted(judged.anomaly, judge.snr_db, judge.policy), judge.local_hour, judge.policy);
    if judged.score is null then
        raise exception using
            errcode = 'RV005',
            message = 'Nothing to compare: the baseline, the current embedding or the policy is null';
    end if;
    judged.severity := care.severity(judged.score, judge.thresholds);
    judged.alert_type := care.alert_type(care.alert_level(judged.severity));
    judged.noise_adjusted := judged.severity <> care.severity(judged.anomaly, judge.thresholds);
    return judged;
end
$$;
comment on function voice.judge is
    'Compares an embedding with a baseline and returns the comparison. Raises RV005 if there is nothing to compare. Called by voice.score_call and voice.compare.';
revoke execute on function voice.judge from public;

create function voice.compare(
    baseline extensions.vector,
    "current" extensions.vector,
    snr_db double precision,
    local_hour double precision,
    encoder text
)
returns voice.comparison
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    policy voice.policies := voice.policy(coalesce(compare.encoder, voice.active_encoder()));
begin
    if extensions.vector_dims(compare.baseline) <> (select dimension from voice.encoders where id = policy.encoder) then
        raise exception using
            errcode = 'RV005',
            message = format('A vector of %s dimensions is not from encoder %s',
                extensions.vector_dims(compare.baseline), policy.encoder),
            hint = 'Name the encoder that produced the vectors.';
    end if;
    return voice.judge(
        compare.baseline, compare."current", compare.snr_db, compare.local_hour, policy, care.thresholds_for(policy.encoder));
end
$$;
comment on function voice.compare is
    'Compares two given embeddings by the policy of an encoder (null: the active one) and stores nothing. Raises RV004, RV005. Called by POST /compare.';
revoke execute on function voice.compare from public;
grant execute on function voice.compare to retrocare_service;
