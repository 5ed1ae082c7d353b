-- Charts: what the calibrated rule remembers of each patient between calls, one row per encoder, and what corrects it.
--
-- Calls are measured against the reference. It is the baseline itself until that is complete; then it follows usual calls slowly, never
-- farther than two calls of one person differ anyway, so that ageing and seasons raise no alarm and a decline is not swallowed.

create table voice.charts (
    patient_id uuid not null
        constraint a_chart_is_of_a_patient references public.patients (id) on delete cascade,
    encoder text not null,
    calibration_id integer not null,
    anchor_id bigint not null,
    sample_variance double precision not null,
    whitened_anchor extensions.vector,
    whitened_sample_variance double precision,
    reference extensions.vector not null,
    reference_version integer not null default 1,
    state voice.chart_state not null,
    decision_count integer not null default 0,
    calls_per_year double precision not null default 365,
    calls_counted_at timestamptz not null,
    last_call_at timestamptz,
    constraint charts_pkey primary key (patient_id, encoder),
    constraint a_chart_uses_a_calibration_of_its_encoder
        foreign key (calibration_id, encoder) references voice.calibrations (id, encoder),
    constraint a_chart_is_anchored_in_a_baseline
        foreign key (anchor_id, patient_id, encoder) references voice.baselines (id, patient_id, encoder) on delete cascade
) with (fillfactor = 70);
create index charts_by_calibration on voice.charts (calibration_id, encoder);
create index charts_by_anchor on voice.charts (anchor_id, patient_id, encoder);
alter table voice.charts enable row level security;
comment on table voice.charts is
    'The control chart of each patient, with the reference against which calls are measured. This is biometric data; no role has privileges on it.';
comment on column voice.charts.anchor_id is 'The baseline version from which the reference began.';
comment on column voice.charts.sample_variance is 'What the baseline''s samples add to the expected distance: half the sum of their variances over the square of their number.';
comment on column voice.charts.whitened_anchor is 'The baseline in the whitened space. Null: the calibration has no projection.';
comment on column voice.charts.reference_version is 'Counts the changes of the reference.';
comment on column voice.charts.decision_count is 'How many calls were judged by the calibrated rule; the last one has this decision_number.';
comment on column voice.charts.calls_per_year is 'How often the patient is called, by the judged calls of the last 90 days; 365 in the first 90 days. Counted once a month.';

create type voice.correction_kind as enum (
    'settled',      -- somebody said that the patient is well: what pointed to a change is gone
    'restarted',    -- another baseline, or another calibration: nothing is known yet
    'replayed'      -- calls were withdrawn: the chart was computed again from the stored numbers of the others
);
comment on type voice.correction_kind is 'Why a chart was changed by something other than a call.';

create table voice.chart_corrections (
    id bigint generated always as identity constraint chart_corrections_pkey primary key,
    patient_id uuid not null
        constraint a_correction_is_of_a_patients_chart references public.patients (id) on delete cascade,
    encoder text not null,
    after_decision integer not null,
    kind voice.correction_kind not null,
    state voice.chart_state not null,
    corrected_at timestamptz not null default clock_timestamp()
);
create index corrections_by_chart on voice.chart_corrections (patient_id, encoder, after_decision);
alter table voice.chart_corrections enable row level security;
comment on table voice.chart_corrections is
    'Every change of a chart that no call made, so that a replay of the calls gives the same numbers. They outlive the chart, as the logs do.';
comment on column voice.chart_corrections.after_decision is 'The decision_number of the last call before it.';
comment on column voice.chart_corrections.state is 'The chart after the correction.';

create function voice.sample_variance(baseline_id bigint, calibration_id integer, space voice.vector_space)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select sum(bin.call_variance + bin.speech_variance / embeddings.speech_seconds) / (2 * count(*) ^ 2)
    from voice.baseline_samples
    join voice.embeddings on embeddings.id = baseline_samples.embedding_id
    cross join lateral voice.calibration_bin(sample_variance.calibration_id, sample_variance.space, embeddings.snr_db) as bin
    where baseline_samples.baseline_id = sample_variance.baseline_id
$$;
comment on function voice.sample_variance is
    'Returns half the sum of the variances of a baseline''s samples over the square of their number: what they add to the expected distance.';
revoke execute on function voice.sample_variance from public;

create function voice.anchor_chart(chart voice.charts, baseline voice.baselines)
returns voice.charts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    chart.anchor_id := baseline.id;
    chart.reference := baseline.embedding;
    chart.reference_version := coalesce(chart.reference_version, 0) + 1;
    chart.sample_variance := voice.sample_variance(baseline.id, chart.calibration_id, 'raw');
    chart.whitened_anchor := voice.whiten(baseline.embedding, chart.calibration_id);
    if chart.whitened_anchor is not null then
        chart.whitened_sample_variance := voice.sample_variance(baseline.id, chart.calibration_id, 'whitened');
    end if;
    return chart;
end
$$;
comment on function voice.anchor_chart is 'Returns the chart with this baseline as its anchor and reference; nothing else changes.';
revoke execute on function voice.anchor_chart from public;

create function voice.correct_chart(chart voice.charts, kind voice.correction_kind, state voice.chart_state)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update voice.charts
    set state = correct_chart.state
    where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
    insert into voice.chart_corrections (patient_id, encoder, after_decision, kind, state)
    values (chart.patient_id, chart.encoder, chart.decision_count, correct_chart.kind, correct_chart.state);
end
$$;
comment on function voice.correct_chart is 'Gives a chart another state, and keeps why. The caller has called care.lock_patient.';
revoke execute on function voice.correct_chart from public;

create function voice.chart_of(baseline voice.baselines, calibration_id integer, at timestamptz)
returns voice.charts
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    chart voice.charts;
    is_new boolean;
begin
    select charts.* into chart
    from voice.charts
    where charts.patient_id = baseline.patient_id and charts.encoder = baseline.encoder;
    is_new := not found;
    if not is_new and chart.anchor_id = baseline.id and chart.calibration_id = chart_of.calibration_id then
        return chart;
    end if;
    if is_new then
        chart.patient_id := baseline.patient_id;
        chart.encoder := baseline.encoder;
        chart.state := voice.new_chart();
        -- A patient without a baseline for a time had a chart before; its decisions keep their numbers.
        chart.decision_count := coalesce((
            select max(voice_anomaly_logs.decision_number)
            from public.voice_anomaly_logs
            where voice_anomaly_logs.patient_id = baseline.patient_id and voice_anomaly_logs.encoder = baseline.encoder
        ), 0);
        chart.calls_per_year := 365;
        chart.calls_counted_at := chart_of.at;
    elsif chart.calibration_id <> chart_of.calibration_id then
        -- Deviations by different calibrations are not comparable.
        perform voice.correct_chart(chart, 'restarted', voice.new_chart());
        chart.state := voice.new_chart();
    end if;
    chart.calibration_id := chart_of.calibration_id;
    chart := voice.anchor_chart(chart, baseline);
    if is_new then
        insert into voice.charts select chart.*;
        perform voice.correct_chart(chart, 'restarted', chart.state) where chart.decision_count > 0;
    else
        update voice.charts
        set calibration_id = chart.calibration_id,
            anchor_id = chart.anchor_id,
            sample_variance = chart.sample_variance,
            whitened_anchor = chart.whitened_anchor,
            whitened_sample_variance = chart.whitened_sample_variance,
            reference = chart.reference,
            reference_version = chart.reference_version
        where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
    end if;
    return chart;
end
$$;
comment on function voice.chart_of is
    'Returns the patient''s chart, anchored in this baseline; a new one if there is none, and one that knows nothing yet if the calibration is another. The caller has called care.lock_patient.';
revoke execute on function voice.chart_of from public;

create function voice.scaled(embedding extensions.vector, factor double precision)
returns extensions.vector
language sql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select scaled.embedding operator(extensions.*) array_fill(scaled.factor::real, array[extensions.vector_dims(scaled.embedding)])::extensions.vector
$$;
comment on function voice.scaled is 'Multiplies a vector by a number.';
revoke execute on function voice.scaled from public;

create function voice.followed(
    reference extensions.vector, anchor extensions.vector, "current" extensions.vector, share double precision,
    least_similarity double precision
)
returns extensions.vector
language plpgsql
immutable
parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    moved constant extensions.vector := extensions.l2_normalize(
        voice.scaled(followed.reference, 1 - followed.share) operator(extensions.+) voice.scaled(followed."current", followed.share));
    similarity constant double precision := 1 - (followed.anchor operator(extensions.<=>) moved);
begin
    if similarity >= followed.least_similarity then
        return moved;
    end if;
    -- Too far: back to the edge, in the same direction from the anchor.
    return extensions.l2_normalize(
        voice.scaled(followed.anchor, followed.least_similarity)
        operator(extensions.+) voice.scaled(
            extensions.l2_normalize(moved operator(extensions.-) voice.scaled(followed.anchor, similarity)),
            sqrt(1 - followed.least_similarity ^ 2)));
end
$$;
comment on function voice.followed is
    'Returns the reference after it followed a call by this share of the way, never less similar to the anchor than least_similarity. All are unit vectors.';
revoke execute on function voice.followed from public;

create function voice.least_reference_similarity(calibration_id integer)
returns double precision
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- A quarter of the expected distance of two clean calls with 8 s of speech each.
    select 1 - (bins.call_variance + bins.speech_variance / 8) / 8
    from voice.calibration_bins as bins
    where bins.calibration_id = least_reference_similarity.calibration_id and bins.space = 'raw'
    order by bins.snr_from desc
    limit 1
$$;
comment on function voice.least_reference_similarity is 'Returns how similar a reference stays to its anchor at least.';
revoke execute on function voice.least_reference_similarity from public;

create function voice.replayed_state(chart voice.charts, thresholds care.thresholds)
returns voice.chart_state
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    calibration constant voice.calibrations := (select calibrations from voice.calibrations where calibrations.id = chart.calibration_id);
    state voice.chart_state := voice.new_chart();
    restarted_after constant integer := coalesce((
        select max(chart_corrections.after_decision)
        from voice.chart_corrections
        where chart_corrections.patient_id = chart.patient_id
            and chart_corrections.encoder = chart.encoder
            and chart_corrections.kind = 'restarted'
    ), 0);
    replayed record;
begin
    for replayed in
        select
            kept.log,
            (kept.log).is_learned and not care.is_unwell_at(chart.patient_id, (kept.log)."timestamp") as is_healthy,
            exists (
                select from voice.chart_corrections
                where chart_corrections.patient_id = chart.patient_id
                    and chart_corrections.encoder = chart.encoder
                    and chart_corrections.kind = 'settled'
                    and chart_corrections.after_decision >= (kept.log).decision_number
                    and (chart_corrections.after_decision < kept.next_number or kept.next_number is null)
            ) as is_settled
        from (
            -- Calls in between were late, or are deleted; somebody may have answered after one of them.
            select logs as log, lead(logs.decision_number) over (order by logs.decision_number) as next_number
            from public.voice_anomaly_logs as logs
            where logs.patient_id = chart.patient_id
                and logs.encoder = chart.encoder
                and logs.decision_number > restarted_after
                and logs.calibration_id = chart.calibration_id
                and not logs.is_late
        ) as kept
        order by (kept.log).decision_number
    loop
        if not (replayed.log).is_disowned then
            state := (voice.decide(
                state, voice.logged_observation(replayed.log), calibration, replayed_state.thresholds, (replayed.log).warnings_per_year,
                (replayed.log).calls_per_year, (replayed.log).local_day, replayed.is_healthy, false)).after;
        end if;
        if replayed.is_settled then
            state := voice.settled_chart(state);
        end if;
    end loop;
    return state;
end
$$;
comment on function voice.replayed_state is
    'Computes a chart again from the stored numbers of its calls, without learning from days that are flagged by now, and without calls that were somebody else''s.';
revoke execute on function voice.replayed_state from public;

create function voice.replay_charts(patient_id uuid)
returns void
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    chart voice.charts;
    baseline voice.baselines;
begin
    for chart in select charts.* from voice.charts where charts.patient_id = replay_charts.patient_id order by charts.encoder loop
        baseline := voice.current_baseline(chart.patient_id, chart.encoder);
        if baseline.id is null then
            delete from voice.charts where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
        else
            -- The reference may have followed a call that is withdrawn now.
            update voice.charts
            set reference = baseline.embedding, reference_version = chart.reference_version + 1
            where charts.patient_id = chart.patient_id and charts.encoder = chart.encoder;
            perform voice.correct_chart(
                voice.chart_of(baseline, chart.calibration_id, chart.calls_counted_at), 'replayed',
                voice.replayed_state(chart, care.thresholds_for(chart.encoder, chart.patient_id)));
        end if;
    end loop;
end
$$;
comment on function voice.replay_charts is
    'Computes the patient''s charts again after samples were withdrawn, with the present baselines as their references. The caller has called care.lock_patient.';
revoke execute on function voice.replay_charts from public;

create function voice.restart_chart(patient_id uuid, encoder text)
returns void
language sql
volatile
set search_path = pg_catalog, pg_temp
as $$
    select voice.correct_chart(charts, 'restarted', voice.new_chart())
    from voice.charts
    where charts.patient_id = restart_chart.patient_id and charts.encoder = restart_chart.encoder
$$;
comment on function voice.restart_chart is
    'Forgets what is known of the patient''s calls, since another baseline replaces theirs. The caller has called care.lock_patient.';
revoke execute on function voice.restart_chart from public;
