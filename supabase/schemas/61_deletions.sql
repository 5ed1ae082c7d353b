-- Deletions: how copies outside the database, in Storage and at the provider, are deleted.

create type public.deletion_claim as (
    deletion_id bigint,
    kind public.deletion_kind,
    reference text,
    attempts integer,
    lease_token uuid
);
comment on type public.deletion_claim is 'Something to delete: bucket/path in Storage, or provider account/call id.';

create function care.claim_deletions(worker text, count integer, lease_seconds double precision, at timestamptz default now())
returns setof public.deletion_claim
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.deletions as claimed
    set state = 'leased',
        attempts = claimed.attempts + 1,
        worker = claim_deletions.worker,
        lease_token = gen_random_uuid(),
        leased_until = claim_deletions.at + make_interval(secs => claim_deletions.lease_seconds)
    from (
        select due.id
        from care.deletions as due
        where due.due_at <= claim_deletions.at
        order by due.due_at, due.id
        for update skip locked
        limit claim_deletions.count
    ) as ready
    where claimed.id = ready.id
    returning claimed.id, claimed.kind, claimed.reference, claimed.attempts, claimed.lease_token
$$;
comment on function care.claim_deletions is
    'Claims up to count deletions that are due and returns them. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.claim_deletions from public;

create function care.finish_deletion(deletion_id bigint, lease_token uuid, at timestamptz default now())
returns boolean
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    with done as (
        update care.deletions
        set state = 'done', finished_at = finish_deletion.at, error_code = null
        where deletions.id = finish_deletion.deletion_id
            and deletions.lease_token = finish_deletion.lease_token
            and deletions.state = 'leased'
        returning deletions.patient_id, deletions.kind
    ),
    noted as (
        select care.note_audit('deletion_finished', done.kind::text, done.patient_id) from done
    )
    select count(*) > 0 from noted
$$;
comment on function care.finish_deletion is
    'Notes that the copy is deleted and its absence was confirmed. Returns false if the lease is lost. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.finish_deletion from public;

create function care.fail_deletion(deletion_id bigint, lease_token uuid, code text, at timestamptz default now())
returns void
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
    update care.deletions
    set state = 'queued',
        error_code = fail_deletion.code,
        lease_token = null,
        leased_until = null,
        run_at = fail_deletion.at + care.retry_wait(deletions.attempts)
    where deletions.id = fail_deletion.deletion_id
        and deletions.lease_token = fail_deletion.lease_token
        and deletions.state = 'leased'
$$;
comment on function care.fail_deletion is
    'Notes that the copy could not be deleted. It is retried with exponential backoff until it succeeds. Security definer: the edge function has no privileges on the private schemas.';
revoke execute on function care.fail_deletion from public;
