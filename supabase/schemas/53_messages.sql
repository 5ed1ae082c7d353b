-- Messages: the texts that caregivers read, as rows, so that a translation is rows too. They say in plain words what happened and
-- what to do; they contain no score and no diagnosis.
--
-- {patient} is the name by which the caregiver knows the patient, {who} the caregiver who acted, {when} the time of the call, {link}
-- the URL at which to respond, {how} what was unusual (", slower than usual"), {other} who may have spoken instead.

create table care.alert_openings (
    language text not null,
    change public.alert_change not null,
    is_by_rule boolean not null default true,
    text text not null,
    is_whole boolean not null default false,
    constraint alert_openings_pkey primary key (language, change, is_by_rule)
);
alter table care.alert_openings enable row level security;
comment on table care.alert_openings is 'The beginning of the message about each kind of change. Changes without a row are not sent.';
comment on column care.alert_openings.is_by_rule is 'Whether the change was made by a rule, not by a person.';
comment on column care.alert_openings.is_whole is
    'Whether this is the whole message, for those who were notified before; no text of care.alert_texts follows.';
insert into care.alert_openings (language, change, is_by_rule, text, is_whole) values
    ('en', 'opened', true, '', false),
    ('en', 'raised', true, '', false),
    ('en', 'escalated', true, 'Nobody has answered yet. ', false),
    ('en', 'reminded', true, 'Still nobody has answered. ', false),
    ('en', 'woken', true, 'As you asked, once more: ', false),
    ('en', 'reopened', true, 'Somebody saw to this some time ago, but nobody has said how it ended. ', false),
    ('en', 'acknowledged', false, '{who} is looking after {patient} now. You need not do anything.', true),
    ('en', 'resolved', false, '{who} has looked after {patient}, and the matter is closed. You need not do anything.', true),
    ('en', 'resolved', true, 'We have heard {patient} on the phone again. You need not do anything.', true);

create table care.alert_texts (
    language text not null,
    cause text not null
        constraint a_text_is_about_a_cause references public.alert_causes (id),
    level public.alert_level not null,
    text text not null,
    is_urgent boolean not null default false,
    constraint alert_texts_pkey primary key (language, cause, level, is_urgent)
);
create index alert_texts_by_cause on care.alert_texts (cause);
alter table care.alert_texts enable row level security;
comment on table care.alert_texts is 'What happened and what to do. A level without a text uses that of the next lower level.';
comment on column care.alert_texts.is_urgent is 'Whether the text is for a single call that was very unlike usual. Without one, the other text is used.';
insert into care.alert_texts (language, cause, level, is_urgent, text) values
    ('en', 'voice_changed', 'warning', true,
        '{patient} sounded very unlike usual on the phone{when}{how}. It was one call only, but please call {patient} now. If you cannot reach {patient}, ask somebody nearby to look in. Then say that you have seen this{link}.'),
    ('en', 'another_voice', 'warning', true,
        'The voice on {patient}''s phone{when} did not sound like {patient}''s{other}. If you know who it was, say so{link}. If not, please call {patient} now: a voice can change that much by itself.');
insert into care.alert_texts (language, cause, level, text) values
    ('en', 'voice_changed', 'warning',
        '{patient} sounded different from usual on the phone{when}{how}. Please call {patient} today and hear how things are. Then say that you have seen this{link}.'),
    ('en', 'another_voice', 'warning',
        'The voice on {patient}''s phone{when} did not sound like {patient}''s{other}. Please call {patient} today, and say who it was if you know{link}.'),
    ('en', 'another_voice', 'emergency',
        'URGENT: in two of the last three calls, the voice on {patient}''s phone did not sound like {patient}''s{other}. Please call or visit {patient} now: a voice can change that much by itself. Then say what you found{link}.'),
    ('en', 'another_voice', 'critical',
        'VERY URGENT: in two of the last three calls, the voice on {patient}''s phone was hardly like {patient}''s{other}. Please see to {patient} at once, or send somebody. If nobody can be reached, call the emergency services. Then say what you found{link}.'),
    ('en', 'voice_changed', 'emergency',
        'URGENT: {patient} sounded very different from usual on the phone{when}{how}. Please call or visit {patient} now. If you cannot reach {patient}, ask somebody nearby to look in. Then say that you have seen this{link}.'),
    ('en', 'voice_changed', 'critical',
        'VERY URGENT: the voice on {patient}''s phone{when} was hardly like {patient}''s. Please see to {patient} at once, or send somebody. If nobody can be reached, call the emergency services. Then say that you have seen this{link}.'),
    ('en', 'nothing_heard', 'warning',
        'We have not been able to hear {patient} on the phone for some days. Please call {patient} and hear how things are. Then say that you have seen this{link}.'),
    ('en', 'no_usable_speech', 'warning',
        '{patient} has answered our last calls, but we hardly heard {patient} speak. Please call {patient} and hear how things are. Then say that you have seen this{link}.');

create table care.reason_texts (
    language text not null,
    reason text not null,
    text text not null,
    further_text text not null,
    constraint reason_texts_pkey primary key (language, reason)
);
alter table care.reason_texts enable row level security;
comment on table care.reason_texts is 'What was unusual about a call, as clauses: text where a reason comes first, further_text where it follows another.';
comment on column care.reason_texts.reason is 'A reason that a signal gives; those of voice are in voice.features.';
insert into care.reason_texts (language, reason, text, further_text) values
    ('en', 'slower', 'slower than usual for {patient}', 'slower'),
    ('en', 'faster', 'faster than usual for {patient}', 'faster'),
    ('en', 'higher_voice', 'in a higher voice than usual for {patient}', 'in a higher voice'),
    ('en', 'lower_voice', 'in a lower voice than usual for {patient}', 'in a lower voice'),
    ('en', 'longer_pauses', 'with longer pauses than usual for {patient}', 'with longer pauses'),
    ('en', 'shorter_pauses', 'with shorter pauses than usual for {patient}', 'with shorter pauses'),
    ('en', 'livelier', 'with more melody than usual for {patient}', 'with more melody'),
    ('en', 'flatter', 'more monotonous than usual for {patient}', 'more monotonous'),
    ('en', 'brighter', 'in a brighter voice than usual for {patient}', 'in a brighter voice'),
    ('en', 'duller', 'in a duller voice than usual for {patient}', 'in a duller voice'),
    ('en', 'like_another', 'but like {other}''s', 'but like {other}''s');  -- who of the household was heard instead

create function care.reasons_in_words(reasons text[], language text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select string_agg(
        case when written.place = 1 then written.text else written.further_text end, ', ' order by written.place)
    from (
        select chosen.text, chosen.further_text, row_number() over (order by given.place) as place
        from unnest(reasons_in_words.reasons) with ordinality as given (reason, place)
        cross join lateral (
            select reason_texts.text, reason_texts.further_text
            from care.reason_texts
            where reason_texts.reason = given.reason
            order by
                reason_texts.language = reasons_in_words.language desc,
                reason_texts.language = 'en' desc,
                reason_texts.language
            limit 1
        ) as chosen
    ) as written
$$;
comment on function care.reasons_in_words is
    'Returns the reasons as one clause, in their order, with {patient} for the name. A reason without a translation is written in English, or else in any language that there is; one without any text is left out. Null: there is nothing to say.';
revoke execute on function care.reasons_in_words from public;

create function care.alert_message(change public.alert_changes, caregiver public.patient_caregivers)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    with place as (
        select
            care.plain_name(coalesce(nullif(caregiver.patient_known_as, ''), patients.name), 'the person you care for') as patient,
            coalesce(caregiver.timezone, patients.timezone) as timezone,
            ' at ' || to_char(
                call_logs."timestamp" at time zone coalesce(caregiver.timezone, patients.timezone), 'HH24:MI "on" FMDD FMMonth'
            ) as at_time,
            care.plain_name(actor.name, 'The care team') as who,
            case when settings.dashboard_url is null then '' else ': ' || settings.dashboard_url end as link,
            coalesce(', ' || care.reasons_in_words(judgements.reasons, caregiver.language), '') as how,
            coalesce(
                ', ' || replace(
                    care.reasons_in_words(array['like_another'], caregiver.language), '{other}', care.plain_name(likely.name, null)),
                '') as other
        from public.patients
        join care.organisation_settings as settings on settings.organisation_id = patients.organisation_id
        left join public.call_logs on call_logs.id = change.call_log_id
        left join public.patient_caregivers as actor on actor.id = change.caregiver_id
        left join public.judgements on judgements.id = change.judgement_id
        left join public.patients as likely on likely.id = judgements.likely_patient_id
        where patients.id = change.patient_id
    ),
    written as (
        -- Each text is chosen by itself: one without a translation is sent in English, or else in any language that there is.
        select opening.text || case
            when opening.is_whole then ''
            else coalesce(happened.text, '{patient}: please call and hear how things are. Then say that you have seen this{link}.')
        end as text
        from (
            select alert_openings.text, alert_openings.is_whole
            from care.alert_openings
            where alert_openings.change = change.change and alert_openings.is_by_rule = (change.actor = 'rule')
            order by
                alert_openings.language = caregiver.language desc,
                alert_openings.language = 'en' desc,
                alert_openings.language
            limit 1
        ) as opening
        left join lateral (
            select alert_texts.text
            from care.alert_texts
            where alert_texts.cause = change.cause
                and alert_texts.level <= change.level
                and (change.is_urgent or not alert_texts.is_urgent)
            order by
                alert_texts.language = caregiver.language desc,
                alert_texts.language = 'en' desc,
                alert_texts.language,
                alert_texts.level desc,
                alert_texts.is_urgent desc
            limit 1
        ) as happened on true
    )
    select replace(replace(replace(replace(replace(replace(written.text,
        '{how}', place.how), '{other}', place.other),
        '{patient}', place.patient), '{who}', place.who), '{when}', coalesce(place.at_time, '')), '{link}', place.link)
    from written
    cross join place
$$;
comment on function care.alert_message is
    'Returns the message about a change, in the caregiver''s language and time zone. Null: this change is not sent to anybody.';
revoke execute on function care.alert_message from public;
