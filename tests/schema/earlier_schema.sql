-- A RetroCare project as it was before: the tables and columns that its own documents name, with a few rows.

create table public.patients (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    phone text,
    flags text[],
    baseline_embedding_url text
);

create table public.call_logs (
    id uuid primary key default gen_random_uuid(),
    patient_id uuid references public.patients (id) on delete cascade,
    timestamp timestamptz not null default now(),
    summary text,
    anomaly_score float
);

create table public.health_flags (
    id uuid primary key default gen_random_uuid(),
    patient_id uuid not null references public.patients (id) on delete cascade,
    flag text,
    resolved_at timestamptz,
    created_at timestamptz default now()
);

create table public.daily_checkins (
    id uuid primary key default gen_random_uuid(),
    patient_id uuid not null references public.patients (id) on delete cascade,
    date date not null,
    mood text,
    anomaly_score float,
    severity text check (severity in ('low', 'medium', 'high', 'critical'))
);

create table public.patient_voice_baseline (
    patient_id uuid primary key references public.patients (id) on delete cascade,
    embedding text,
    embedding_url text,
    created_at timestamptz default now(),
    updated_at timestamptz default now()
);

create table public.voice_anomaly_logs (
    id uuid primary key default gen_random_uuid(),
    patient_id uuid not null references public.patients (id) on delete cascade,
    call_log_id uuid references public.call_logs (id) on delete set null,
    timestamp timestamptz not null default now(),
    anomaly_score float not null,
    raw_similarity float,
    normalized_score float,
    snr float,
    baseline_embedding_url text,
    current_embedding_url text,
    alert_sent boolean default false,
    alert_type text,
    notes text,
    created_at timestamptz default now()
);
create index idx_voice_anomaly_patient_id on public.voice_anomaly_logs (patient_id);
create index idx_voice_anomaly_timestamp on public.voice_anomaly_logs (timestamp desc);

insert into public.patients (id, name, flags) values
    ('00000000-0000-0000-0000-000000000001', 'Ana', '{}'),
    ('00000000-0000-0000-0000-000000000002', 'Rui', null);
insert into public.call_logs (id, patient_id, summary, anomaly_score) values
    ('00000000-0000-0000-0000-0000000000c1', '00000000-0000-0000-0000-000000000001', 'was well', 0.1);
insert into public.health_flags (patient_id, flag, created_at) values
    ('00000000-0000-0000-0000-000000000002', 'pneumonia', '2026-01-05 09:00+00');
insert into public.daily_checkins (patient_id, date, mood, anomaly_score, severity) values
    ('00000000-0000-0000-0000-000000000001', '2026-03-01', 'good', 0.5, 'high');
insert into public.patient_voice_baseline (patient_id, embedding) values
    ('00000000-0000-0000-0000-000000000001', '[0.1, 0.2]');
insert into public.voice_anomaly_logs (patient_id, call_log_id, anomaly_score, alert_type, notes) values
    ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-0000000000c1', 0.1, null, 'first');
