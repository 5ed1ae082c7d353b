-- Calibrations: what has been measured of an encoder, so that a distance can be read as a rarity. docs/judgement.md has the formulas.
--
-- A calibration never changes; another one is another row. The logs name the calibration by which they were judged.

create type public.scoring_rule as enum (
    'fixed',        -- the cosine distance, less what noise and the time of day may explain
    'calibrated'    -- how rare such a call is for this patient; needs a calibration
);
comment on type public.scoring_rule is 'How a score is computed.';

create type voice.vector_space as enum (
    'raw',          -- as the encoder produced them
    'whitened'      -- projected by voice.projection_rows, where noise moves them less
);
comment on type voice.vector_space is 'The vectors between which a distance is measured.';

create table voice.calibrations (
    id integer generated always as identity constraint calibrations_pkey primary key,
    encoder text not null
        constraint a_calibration_is_of_an_encoder references voice.encoders (id) on delete cascade,
    digest text not null,
    provenance jsonb not null default '{}',
    prior_degrees double precision not null
        constraint a_prior_has_more_than_two_degrees check (prior_degrees > 2 and prior_degrees < 1e6),
    prior_variance double precision not null
        constraint a_prior_variance_is_positive check (prior_variance > 1e-6 and prior_variance < 1e6),
    prior_mean_variance double precision not null
        constraint the_variance_of_means_is_positive check (prior_mean_variance > 1e-6 and prior_mean_variance < 1e6),
    learning_calls integer not null default 60
        constraint learning_ends check (learning_calls between 0 and 1000),
    winsorised_at double precision not null default 3
        constraint winsorising_leaves_something check (winsorised_at > 0 and winsorised_at <= 10),
    cusum_allowance double precision not null default 0.5
        constraint an_allowance_is_positive check (cusum_allowance > 0 and cusum_allowance <= 3),
    deviation_limit double precision not null default 3
        constraint a_day_moves_the_cusum check (deviation_limit > cusum_allowance and deviation_limit <= 10),
    maximum_cusum double precision not null default 10
        constraint the_cusum_is_bounded check (maximum_cusum > 0 and maximum_cusum <= 100),
    far_above double precision not null default 2
        constraint far_is_above_usual check (far_above > 0 and far_above <= 8),
    named_above double precision not null default 3
        constraint another_voice_is_far check (named_above >= far_above and named_above <= 8),
    sample_minimum_snr_db double precision not null default 15
        constraint a_sample_needs_a_known_line check (sample_minimum_snr_db > '-infinity' and sample_minimum_snr_db < 'infinity'),
    sample_maximum_cusum double precision not null default 2.375
        constraint samples_come_from_quiet_times check (sample_maximum_cusum > 0 and sample_maximum_cusum < 'infinity'),
    following_share double precision not null default 1.0 / 120
        constraint a_reference_follows_slowly check (following_share between 0 and 0.5),
    steady_below double precision not null default 0.3
        constraint a_steady_time_is_near_usual check (steady_below > '-infinity' and steady_below < far_above),
    settles_after_days integer not null default 30
        constraint what_pointed_to_a_change_ages check (settles_after_days between 1 and 366),
    created_at timestamptz not null default now(),
    constraint a_calibration_is_kept_once unique (encoder, digest),
    constraint calibrations_by_encoder unique (id, encoder)
);
alter table voice.calibrations enable row level security;
comment on table voice.calibrations is
    'Immutable versions of what is known of an encoder: how far calls of one person lie apart, by noise and length, and the limits of the calibrated rule. Logs refer to them.';
comment on column voice.calibrations.digest is 'Identifies the document from which the row was made: the same document gives the same row.';
comment on column voice.calibrations.provenance is 'From which recordings, how many people, and by which command it was made.';
comment on column voice.calibrations.prior_degrees is 'How much is known of a patient''s spread before the first call: degrees of freedom.';
comment on column voice.calibrations.prior_variance is 'Variance of one person''s deviations about that person''s mean, over all people.';
comment on column voice.calibrations.prior_mean_variance is 'Variance of people''s mean deviations.';
comment on column voice.calibrations.learning_calls is 'From so many healthy calls the patient''s own mean and spread are learned; then they stay.';
comment on column voice.calibrations.winsorised_at is 'A learned call counts as at most this many standard deviations from the mean.';
comment on column voice.calibrations.cusum_allowance is 'What a usual day takes from the CUSUM, in standard deviations.';
comment on column voice.calibrations.deviation_limit is 'At most so much of a day''s deviation moves the CUSUM, either way.';
comment on column voice.calibrations.maximum_cusum is 'The CUSUM stays at or below this, so that it can fall again.';
comment on column voice.calibrations.far_above is 'A call with a higher deviation is far from usual: two of three such calls confirm a change.';
comment on column voice.calibrations.named_above is 'Only a call with a higher deviation may be called another voice.';
comment on column voice.calibrations.sample_minimum_snr_db is 'Calls below it, or with an unknown SNR, do not change the baseline or its reference.';
comment on column voice.calibrations.sample_maximum_cusum is 'While the CUSUM is at or above it, no call changes the baseline or its reference.';
comment on column voice.calibrations.following_share is 'By which share of the way the reference follows each usual call once the baseline is complete.';
comment on column voice.calibrations.steady_below is
    'If the last ten calls deviated by less than this on average, a sudden change may be a new telephone or room.';

comment on column voice.calibrations.settles_after_days is
    'After so many days without a judged call, what pointed to a change is forgotten: it says nothing about the present.';

create table voice.calibration_bins (
    calibration_id integer not null
        constraint a_bin_is_of_a_calibration references voice.calibrations (id) on delete cascade,
    space voice.vector_space not null,
    snr_from double precision not null
        constraint a_bin_begins_somewhere check (snr_from > '-infinity' and snr_from < 'infinity'),
    call_variance double precision not null
        constraint calls_differ check (call_variance > 1e-9 and call_variance < 100),
    speech_variance double precision not null
        constraint more_speech_varies_less check (speech_variance >= 0 and speech_variance < 100),
    log_bias double precision not null
        constraint a_bias_is_a_number check (log_bias > -10 and log_bias < 10),
    log_deviation double precision not null
        constraint logarithms_of_distances_vary check (log_deviation >= 0.01 and log_deviation < 10),
    other_log_mean double precision not null
        constraint others_are_at_some_distance check (other_log_mean > -20 and other_log_mean < 2),
    other_log_deviation double precision not null
        constraint others_vary check (other_log_deviation >= 0.01 and other_log_deviation < 10),
    constraint calibration_bins_pkey primary key (calibration_id, space, snr_from)
);
alter table voice.calibration_bins enable row level security;
comment on table voice.calibration_bins is 'How far calls lie apart, by the noise on the line.';
comment on column voice.calibration_bins.snr_from is
    'The bin of calls with this SNR or more, up to the next bin. Calls below all bins, or with an unknown SNR, belong to the lowest one.';
comment on column voice.calibration_bins.call_variance is 'Variance between two calls of one person, however long: the distance of two equals half the sum of theirs.';
comment on column voice.calibration_bins.speech_variance is 'What a second of speech adds to it; n seconds add one n-th.';
comment on column voice.calibration_bins.log_bias is 'Mean of ln(distance / expected distance) over calls of the same person.';
comment on column voice.calibration_bins.log_deviation is 'Its standard deviation.';
comment on column voice.calibration_bins.other_log_mean is 'Mean of ln(distance) between a baseline and other people''s calls.';
comment on column voice.calibration_bins.other_log_deviation is 'Its standard deviation.';

create table voice.projection_rows (
    calibration_id integer not null
        constraint a_projection_is_of_a_calibration references voice.calibrations (id) on delete cascade,
    row_number smallint not null
        constraint rows_are_counted_from_one check (row_number >= 1),
    weights extensions.vector not null
        constraint weights_are_of_an_ordinary_size check (extensions.vector_norm(weights) between 1e-6 and 1e6),
    row_offset double precision not null
        constraint an_offset_is_of_an_ordinary_size check (row_offset between -1e6 and 1e6),
    constraint projection_rows_pkey primary key (calibration_id, row_number)
);
alter table voice.projection_rows enable row level security;
comment on table voice.projection_rows is 'The projection into the whitened space: one component of a whitened vector per row. A calibration may have none.';
comment on column voice.projection_rows.row_offset is 'Added to the product of weights and embedding.';

create function voice.add_calibration(encoder text, parameters jsonb)
returns integer
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    dimension constant integer := (select encoders.dimension from voice.encoders where encoders.id = add_calibration.encoder);
    content_digest constant text := md5(add_calibration.parameters::text);
    added_id integer;
    misfit text := case
        when dimension is null then format('No encoder %s is registered', add_calibration.encoder)
        when jsonb_typeof(add_calibration.parameters) is distinct from 'object' then 'The calibration is not a JSON object'
        when add_calibration.parameters ->> 'encoder' is distinct from add_calibration.encoder
            then format('The calibration is of the encoder %s', coalesce(add_calibration.parameters ->> 'encoder', 'null'))
        when jsonb_typeof(add_calibration.parameters #> '{bins,raw}') is distinct from 'array'
            or jsonb_array_length(add_calibration.parameters #> '{bins,raw}') = 0 then 'The calibration has no bins of raw distances'
        when jsonb_typeof(add_calibration.parameters -> 'projection') <> 'null' and (
            jsonb_typeof(add_calibration.parameters #> '{bins,whitened}') is distinct from 'array'
            or jsonb_array_length(add_calibration.parameters #> '{bins,whitened}') = 0
            or jsonb_typeof(add_calibration.parameters #> '{projection,weights}') is distinct from 'array'
            or jsonb_typeof(add_calibration.parameters #> '{projection,offsets}') is distinct from 'array'
            or jsonb_array_length(add_calibration.parameters #> '{projection,weights}')
                <> jsonb_array_length(add_calibration.parameters #> '{projection,offsets}')
            or exists (
                select from jsonb_array_elements(add_calibration.parameters #> '{projection,weights}') as given (weights)
                where case jsonb_typeof(given.weights) when 'array' then jsonb_array_length(given.weights) end is distinct from dimension
            )) then format('The projection does not fit: bins, offsets and rows of %s weights are needed', dimension)
    end;
begin
    if misfit is not null then
        raise exception using
            errcode = 'PT400',
            message = misfit,
            hint = '`retrocare calibrate` makes a calibration for the encoder that is in use.';
    end if;
    perform pg_advisory_xact_lock(hashtext('voice.add_calibration'));
    select calibrations.id into added_id
    from voice.calibrations
    where calibrations.encoder = add_calibration.encoder and calibrations.digest = content_digest;
    if found then
        return added_id;
    end if;

    insert into voice.calibrations (encoder, digest, provenance, prior_degrees, prior_variance, prior_mean_variance)
    values (
        add_calibration.encoder, content_digest, coalesce(add_calibration.parameters -> 'provenance', '{}'),
        (add_calibration.parameters #>> '{prior,degrees}')::double precision,
        (add_calibration.parameters #>> '{prior,variance}')::double precision,
        (add_calibration.parameters #>> '{prior,mean_variance}')::double precision
    )
    returning id into added_id;
    insert into voice.calibration_bins (
        calibration_id, space, snr_from, call_variance, speech_variance, log_bias, log_deviation, other_log_mean, other_log_deviation
    )
    select
        added_id, spaces.space::voice.vector_space, bins.snr_from, bins.call_variance, bins.speech_variance, bins.log_bias,
        bins.log_deviation, bins.other_log_mean, bins.other_log_deviation
    from jsonb_each(add_calibration.parameters -> 'bins') as spaces (space, bins)
    cross join lateral jsonb_to_recordset(case jsonb_typeof(spaces.bins) when 'array' then spaces.bins else '[]' end) as bins (
        snr_from double precision, call_variance double precision, speech_variance double precision, log_bias double precision,
        log_deviation double precision, other_log_mean double precision, other_log_deviation double precision
    );
    insert into voice.projection_rows (calibration_id, row_number, weights, row_offset)
    select
        added_id, given.row_number, given.weights::text::extensions.vector,
        (add_calibration.parameters #>> array['projection', 'offsets', (given.row_number - 1)::text])::double precision
    from jsonb_array_elements(coalesce(add_calibration.parameters #> '{projection,weights}', '[]')) with ordinality as given (weights, row_number);
    return added_id;
end
$$;
comment on function voice.add_calibration is
    'Stores a calibration, as `retrocare calibrate` makes it, and returns its id; the same content is stored once. Nothing is judged by it before voice.use_calibration. Raises PT400, or a violation of the tables'' constraints. Security definer: the service has no privileges on tables.';
revoke execute on function voice.add_calibration from public;
grant execute on function voice.add_calibration to retrocare_service;

create function voice.whiten(embedding extensions.vector, calibration_id integer)
returns extensions.vector
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select extensions.l2_normalize(
        array_agg((row_offset - (weights operator(extensions.<#>) whiten.embedding))::real order by row_number)::extensions.vector)
    from voice.projection_rows
    where projection_rows.calibration_id = whiten.calibration_id
$$;
comment on function voice.whiten is
    'Projects an embedding into the whitened space and returns a unit vector. Null: the calibration has no projection.';
revoke execute on function voice.whiten from public;

create function voice.calibration_bin(calibration_id integer, space voice.vector_space, snr_db double precision)
returns voice.calibration_bins
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select calibration_bins.*
    from voice.calibration_bins
    where calibration_bins.calibration_id = calibration_bin.calibration_id and calibration_bins.space = calibration_bin.space
    order by
        calibration_bins.snr_from <= coalesce(calibration_bin.snr_db, '-infinity') desc,
        abs(calibration_bins.snr_from - coalesce(calibration_bin.snr_db, calibration_bins.snr_from)),
        calibration_bins.snr_from
    limit 1
$$;
comment on function voice.calibration_bin is
    'Returns the bin to which a call with this SNR belongs. An unknown SNR (null) belongs to the lowest one, which expects the greatest distances. Null: there are no bins.';
revoke execute on function voice.calibration_bin from public;
