-- A calibration made of the stored history, for an encoder of which no public speech was measured. The vectors stay in the database.
--
-- Only calls count that were judged or enrolled while the patient was healthy, and that nobody called somebody else's. The first
-- three clean ones of each patient stand for the enrolment. Projection and whitened bins are those of the calibration in use.

create function voice.archive_calls(encoder text)
returns table (
    patient_id uuid, embedding_id bigint, embedding extensions.vector, speech_seconds double precision, snr_from double precision,
    call_number bigint
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with bins (snr_from) as (values (25::double precision), (15), (8)),
    latest as (
        select
            embeddings.patient_id, embeddings.id, embeddings.embedding, embeddings.speech_seconds,
            coalesce((select max(bins.snr_from) from bins where bins.snr_from <= embeddings.snr_db), 8) as snr_from,
            call_logs."timestamp",
            row_number() over (partition by embeddings.patient_id order by call_logs."timestamp" desc, embeddings.id desc) as recency
        from voice.embeddings
        join public.call_logs on call_logs.id = embeddings.call_log_id
        join public.patients on patients.id = embeddings.patient_id
        where embeddings.encoder = archive_calls.encoder
            and call_logs.check_state in ('scored', 'enrolled')
            and care.is_healthy_at(patients, call_logs."timestamp")
            and not exists (
                select from public.voice_anomaly_logs as logs
                where logs.call_log_id = embeddings.call_log_id
                    and logs.encoder = embeddings.encoder
                    and (logs.is_disowned or logs.verdict = 'another_voice')
            )
    )
    select
        latest.patient_id, latest.id, latest.embedding, latest.speech_seconds, latest.snr_from,
        row_number() over (partition by latest.patient_id order by latest.snr_from desc, latest."timestamp", latest.id)
    from latest
    where latest.recency <= 40
$$;
comment on function voice.archive_calls is
    'Returns the last 40 calls of each patient that a calibration may be made of, the clean ones first. snr_from is the bin; an unknown SNR belongs to the lowest one.';
revoke execute on function voice.archive_calls from public;

create type voice.sighting as (
    variance double precision,
    per_second double precision
);
comment on type voice.sighting is 'What one distance says of the variance of calls, and one over the seconds of speech.';

create function voice.fitted_variance(sightings voice.sighting[])
returns table (call_variance double precision, speech_variance double precision)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select
        greatest(case when fitted.slope > 0 then fitted.intercept else fitted.mean end, 1e-4),
        greatest(fitted.slope, 0)
    from (
        select
            coalesce(regr_slope(seen.variance, seen.per_second), 0) as slope,
            regr_intercept(seen.variance, seen.per_second) as intercept,
            avg(seen.variance) as mean
        from unnest(sightings) as seen
    ) as fitted
$$;
comment on function voice.fitted_variance is 'Fits variance = call_variance + speech_variance / seconds, neither below 0.';
revoke execute on function voice.fitted_variance from public;

create function voice.archive_coverage(encoder text)
returns jsonb
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    with counted as (
        select
            archive.patient_id, count(*) as calls,
            count(*) filter (where archive.snr_from = 25) as clean,
            count(*) filter (where archive.snr_from = 15) as less_clean,
            count(*) filter (where archive.snr_from = 8) as noisy
        from voice.archive_calls(archive_coverage.encoder) as archive
        group by archive.patient_id
    ),
    enough as (
        select * from counted where calls >= 20 and clean >= 4
    ),
    summed as (
        select
            (select count(*) from counted) as patients,
            (select count(*) from enough) as patients_with_20_calls,
            coalesce((select sum(calls) from enough), 0) as calls,
            (select count(*) from enough where less_clean > 0) as patients_below_25_db,
            (select count(*) from enough where noisy > 0) as patients_below_15_db,
            (voice.policy(archive_coverage.encoder)).calibration_id is not null as is_calibrated
    )
    select to_jsonb(summed) || jsonb_build_object(
        'encoder', archive_coverage.encoder,
        'missing', array_remove(array[
            case when patients_with_20_calls < 40 then
                format('%s more patients with 20 healthy calls, 4 of them at 25 dB or more', 40 - patients_with_20_calls) end,
            case when not is_calibrated and patients_below_25_db < 10 then
                format('%s more of them with calls below 25 dB', 10 - patients_below_25_db) end,
            case when not is_calibrated and patients_below_15_db < 10 then
                format('%s more of them with calls below 15 dB', 10 - patients_below_15_db) end
        ], null))
    from summed
$$;
comment on function voice.archive_coverage is
    'Returns of how many patients and calls a calibration of the stored history can be made, and what is missing for one (an empty array: nothing). Raises RV004. Security definer: the service may not read the tables. Called by `retrocare evaluate --history`.';
revoke execute on function voice.archive_coverage from public;
grant execute on function voice.archive_coverage to retrocare_service;

create function voice.calibrate_archive(encoder text)
returns jsonb
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    coverage constant jsonb := voice.archive_coverage(calibrate_archive.encoder);
    present constant jsonb := voice.calibration_document(calibrate_archive.encoder);
    fitted_bins jsonb;
    prior jsonb;
begin
    if jsonb_array_length(coverage -> 'missing') > 0 then
        raise exception using
            errcode = 'PT409',
            message = 'The stored history is too short for a calibration',
            detail = coverage::text,
            hint = format('Missing: %s. Until then, calibrate with public speech.',
                (select string_agg(given.lack, '; ') from jsonb_array_elements_text(coverage -> 'missing') as given (lack)));
    end if;

    with calls as materialized (
        select archive.*, 1 / archive.speech_seconds as per_second
        from (
            select
                found.*,
                count(*) over (partition by found.patient_id) as calls,
                count(*) filter (where found.snr_from = 25) over (partition by found.patient_id) as clean
            from voice.archive_calls(calibrate_archive.encoder) as found
        ) as archive
        where archive.calls >= 20 and archive.clean >= 4
    ),
    -- The distance of two calls of one person is expected to be half the sum of both variances.
    pairs as materialized (
        select
            one.per_second as clean_per_second, other.per_second, other.snr_from,
            one.embedding operator(extensions.<=>) other.embedding as distance
        from calls as one
        join calls as other using (patient_id)
        where one.snr_from = 25
            and one.embedding_id <> other.embedding_id
            and (other.snr_from < 25 or one.embedding_id < other.embedding_id)
    ),
    clean as (
        select * from voice.fitted_variance((
            select array_agg(row(distance, (clean_per_second + per_second) / 2)::voice.sighting) from pairs where snr_from = 25))
    ),
    variances as materialized (
        select 25::double precision as snr_from, clean.call_variance, clean.speech_variance from clean
        union all
        select noisy.snr_from, fitted.call_variance, fitted.speech_variance
        from (
            select
                pairs.snr_from,
                array_agg(row(
                    2 * pairs.distance - clean.call_variance - clean.speech_variance * pairs.clean_per_second,
                    pairs.per_second)::voice.sighting) as sightings
            from pairs
            cross join clean
            where pairs.snr_from < 25
            group by pairs.snr_from
        ) as noisy
        cross join lateral voice.fitted_variance(noisy.sightings) as fitted
    ),
    anchors as materialized (
        select
            calls.patient_id,
            extensions.l2_normalize(extensions.avg(calls.embedding)) as anchor,
            sum(variances.call_variance + variances.speech_variance * calls.per_second) / (2 * count(*) ^ 2) as variance
        from calls
        join variances using (snr_from)
        where calls.call_number <= 3
        group by calls.patient_id
    ),
    residuals as materialized (
        select
            calls.patient_id, calls.snr_from,
            ln(greatest(calls.embedding operator(extensions.<=>) anchors.anchor, 1e-6))
                - ln(voice.expected_distance(
                    variances.call_variance + variances.speech_variance * calls.per_second, anchors.variance)) as residual
        from calls
        join anchors using (patient_id)
        join variances using (snr_from)
        where calls.call_number > 3
    ),
    own as materialized (
        select
            residuals.snr_from, count(distinct residuals.patient_id) as patients,
            avg(residuals.residual) as log_bias, stddev_samp(residuals.residual) as log_deviation
        from residuals
        group by residuals.snr_from
    ),
    other as materialized (
        select distances.snr_from, avg(distances.log_distance) as other_log_mean, stddev_samp(distances.log_distance) as other_log_deviation
        from (
            select calls.snr_from, ln(greatest(calls.embedding operator(extensions.<=>) anchors.anchor, 1e-6)) as log_distance
            from calls
            join anchors on anchors.patient_id <> calls.patient_id
        ) as distances
        group by distances.snr_from
    ),
    moments as (
        select
            residuals.patient_id, count(*)::double precision as calls,
            avg((residuals.residual - own.log_bias) / own.log_deviation) as mean,
            var_samp(residuals.residual / own.log_deviation) as variance
        from residuals
        join own using (snr_from)
        where residuals.snr_from = 25
        group by residuals.patient_id
        having count(*) > 1
    )
    select
        (
            -- Where too few patients have such calls, the bin is that of the calibration in use.
            select jsonb_agg(
                case
                    when own.patients >= 10 then jsonb_build_object(
                        'snr_from', floors.snr_from, 'call_variance', variances.call_variance,
                        'speech_variance', variances.speech_variance, 'log_bias', own.log_bias, 'log_deviation', own.log_deviation,
                        'other_log_mean', other.other_log_mean, 'other_log_deviation', other.other_log_deviation)
                    else to_jsonb(voice.calibration_bin((present ->> 'id')::integer, 'raw', floors.snr_from))
                        - '{calibration_id,space}'::text[] || jsonb_build_object('snr_from', floors.snr_from)
                end order by floors.snr_from desc)
            from (values (25::double precision), (15), (8)) as floors (snr_from)
            left join variances using (snr_from)
            left join own using (snr_from)
            left join other using (snr_from)
        ),
        (
            -- The variances of a few calls differ by chance: by 2 / (calls - 1) of their mean, squared.
            select jsonb_build_object(
                'degrees', least(60, greatest(6, 4 + 2 / greatest(
                    var_samp(moments.variance) / avg(moments.variance) ^ 2 - avg(2 / (moments.calls - 1)), 1e-9))),
                'variance', greatest(avg(moments.variance), 0.05),
                'mean_variance', greatest(avg(moments.mean ^ 2 - moments.variance / moments.calls), 0.05))
            from moments
        )
    into fitted_bins, prior;
    return jsonb_build_object(
        'encoder', calibrate_archive.encoder,
        'provenance', jsonb_build_object(
            'corpora', jsonb_build_array('the stored history'),
            'people', coverage -> 'patients_with_20_calls',
            'recordings', coverage -> 'calls',
            'made_by', 'retrocare calibrate --archive',
            'projection_of', present -> 'id'),
        'bins', jsonb_build_object('raw', fitted_bins, 'whitened', present #> '{bins,whitened}'),
        'prior', prior,
        'projection', present -> 'projection');
end
$$;
comment on function voice.calibrate_archive is
    'Returns a calibration that is estimated from stored calls, as voice.add_calibration takes it; no vector leaves the database but the projection in use. Raises RV004, and PT409 where the history is too short (its detail is that of voice.archive_coverage). Security definer: the service may not read the tables. Called by `retrocare calibrate --archive`.';
revoke execute on function voice.calibrate_archive from public;
grant execute on function voice.calibrate_archive to retrocare_service;
