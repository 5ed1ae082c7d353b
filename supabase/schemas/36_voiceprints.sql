-- Voiceprints: the registered encoders, and the embeddings that they produced.
--
-- An encoder's id stands for its weights, audio front end and window. If any of them changes, it is another encoder. Embeddings of
-- different encoders are never compared.

create table voice.encoders (
    id text constraint encoders_pkey primary key
        constraint an_encoder_is_a_model references care.models (id) on delete cascade,
    dimension smallint not null
        constraint an_encoder_has_a_dimension check (dimension between 1 and 16000),
    window_seconds double precision not null
        constraint a_window_has_a_length check (window_seconds > 0 and window_seconds < 'infinity'),
    constraint encoders_by_dimension unique (id, dimension)
);
alter table voice.encoders enable row level security;
comment on table voice.encoders is 'Encoders turn audio into embeddings. They are the models of the signal voice.';
comment on column voice.encoders.window_seconds is 'The length of speech that is encoded at once.';

create table voice.embeddings (
    id bigint generated always as identity constraint embeddings_pkey primary key,
    patient_id uuid not null
        constraint an_embedding_is_of_a_patient references public.patients (id) on delete cascade,
    call_log_id uuid not null
        constraint an_embedding_is_of_a_call references public.call_logs (id) on delete cascade,
    encoder text not null,
    embedding extensions.vector not null
        constraint an_embedding_has_unit_length check (abs(extensions.vector_norm(embedding) - 1) < 1e-4),
    dimension smallint not null generated always as (extensions.vector_dims(embedding)) stored,
    audio_sha256 bytea not null
        constraint a_sha256_has_32_bytes check (octet_length(audio_sha256) = 32),
    speech_seconds double precision not null
        constraint an_embedding_is_of_some_speech check (speech_seconds > 0 and speech_seconds < 'infinity'),
    snr_db double precision
        constraint a_known_snr_is_a_number check (snr_db > '-infinity' and snr_db < 'infinity'),
    quality jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint an_embedding_has_its_encoders_dimension
        foreign key (encoder, dimension) references voice.encoders (id, dimension),
    constraint a_call_is_embedded_once_per_encoder unique (call_log_id, encoder),
    constraint a_recording_is_embedded_once_per_patient unique (patient_id, encoder, audio_sha256),
    constraint embeddings_by_patient_and_encoder unique (id, patient_id, encoder)
);
create index embeddings_by_encoder on voice.embeddings (encoder, dimension);
alter table voice.embeddings enable row level security;
comment on table voice.embeddings is 'One voice embedding per call and encoder. This is biometric data; no role has privileges on it.';
comment on column voice.embeddings.embedding is 'Unit vector. The zero vector and NaN are refused.';
comment on column voice.embeddings.audio_sha256 is 'Hash of the recording''s bytes: the same bytes are the same recording.';
comment on column voice.embeddings.speech_seconds is 'Net speech that was analysed. Analysis stops once there is enough.';
comment on column voice.embeddings.snr_db is 'Level of speech above the noise floor. Null: not known.';
comment on column voice.embeddings.quality is
    'Further measures: windows, outlier_windows (left out because another person speaks), agreement, clipped_share, channel, and features: how the patient spoke, by the ids of voice.features.';
create index embeddings_by_age on voice.embeddings (created_at);

create function voice.active_encoder()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select care.active_model('voice')
$$;
comment on function voice.active_encoder is
    'Returns the id of the encoder for which checks are queued. Null before the first service has started.';
revoke execute on function voice.active_encoder from public;
grant execute on function voice.active_encoder to retrocare_service;
-- Scores of different encoders are not comparable, so the means in the overview are those of the active encoder.
grant execute on function voice.active_encoder to authenticated, service_role;
