/** The database, over the Data API, as service_role: one method for each SQL function that several functions call. */
import { createClient, type SupabaseClient } from "npm:@supabase/supabase-js@2.119.0";
import type { CallReport, SourceChannel } from "../../providers/provider.ts";
import { Problem } from "../http/problems.ts";
import { log } from "../log.ts";
import type { Settings } from "../settings.ts";

const RESPONSE_MILLISECONDS = 15_000;

export interface ReceivedCall {
  readonly call_log_id: string | null;
  readonly disposition: "judge" | "skip" | "unknown" | "unmatched" | "erased";
  readonly is_new: boolean;
}

export interface RecordingClaim {
  readonly call_log_id: string;
  readonly patient_id: string;
  readonly provider: string;
  readonly provider_account: string;
  readonly provider_call_id: string;
  readonly source_url: string | null;
  readonly source_channel: SourceChannel | null;
  readonly source_expires_at: string | null;
  /** Without its extension. */
  readonly object_path: string;
  readonly speech_intervals: unknown;
  readonly attempts: number;
  readonly lease_token: string;
}

export interface DeletionClaim {
  readonly deletion_id: number;
  readonly kind: "storage_object" | "provider_call";
  /** `bucket/path` in Storage, or `account/call id` at a provider. */
  readonly reference: string;
  readonly attempts: number;
  readonly lease_token: string;
}

export class Database {
  readonly #client: SupabaseClient;

  constructor(readonly settings: Settings) {
    this.#client = createClient(settings.supabaseUrl, settings.supabaseKey, {
      auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
      global: { fetch: fetchInTime },
    });
  }

  receiveCallReport(provider: string, report: CallReport, at?: string): Promise<ReceivedCall> {
    const [best] = report.sources;
    return this.rpc("receive_call_report", {
      provider,
      provider_call_id: report.providerCallId,
      patient_id: report.patientId,
      phone: report.phone,
      started_at: report.startedAt,
      ended_at: report.endedAt,
      ended_reason: report.endedReason,
      summary: report.summary,
      recording_url: best?.url ?? null,
      recording_url_channel: best?.channel ?? null,
      recording_url_expires_at: best?.expiresAt ?? null,
      speech_intervals: report.speechIntervals,
      is_recording_consented: report.isRecordingConsented,
      at,
    });
  }

  unreportedCalls(provider: string, callIds: readonly string[]): Promise<string[]> {
    return this.rpc("unreported_calls", { provider, provider_call_ids: callIds });
  }

  /** null: the database has no account with this provider. */
  reconcileSince(provider: string, at?: string): Promise<string | null> {
    return this.rpc("reconcile_since", { provider, at });
  }

  async finishReconciliation(provider: string, until: string): Promise<void> {
    await this.rpc("finish_reconciliation", { provider, until });
  }

  async claimRecording(
    worker: string,
    leaseSeconds: number,
    callLogId?: string,
    at?: string,
  ): Promise<RecordingClaim | undefined> {
    const [claim]: RecordingClaim[] = await this.rpc("claim_recordings", {
      worker,
      count: 1,
      lease_seconds: leaseSeconds,
      call_log_id: callLogId,
      at,
    });
    return claim;
  }

  /** Returns whether the lease still held. */
  storeRecording(
    claim: RecordingClaim,
    recordingRef: string,
    channel: SourceChannel,
    speechIntervals: unknown,
  ): Promise<boolean> {
    return this.rpc("store_recording", {
      call_log_id: claim.call_log_id,
      lease_token: claim.lease_token,
      recording_ref: recordingRef,
      recording_channel: channel,
      speech_intervals: speechIntervals,
    });
  }

  failRecording(
    claim: RecordingClaim,
    code: string,
    message: string,
    isPermanent: boolean,
    at?: string,
  ): Promise<string> {
    return this.rpc("fail_recording", {
      call_log_id: claim.call_log_id,
      lease_token: claim.lease_token,
      code,
      message,
      is_permanent: isPermanent,
      at,
    });
  }

  async claimDeletion(worker: string, leaseSeconds: number, at?: string): Promise<DeletionClaim | undefined> {
    const [claim]: DeletionClaim[] = await this.rpc("claim_deletions", {
      worker,
      count: 1,
      lease_seconds: leaseSeconds,
      at,
    });
    return claim;
  }

  /** Returns whether the lease still held. */
  finishDeletion(claim: DeletionClaim, at?: string): Promise<boolean> {
    return this.rpc("finish_deletion", { deletion_id: claim.deletion_id, lease_token: claim.lease_token, at });
  }

  async failDeletion(claim: DeletionClaim, code: string, at?: string): Promise<void> {
    await this.rpc("fail_deletion", { deletion_id: claim.deletion_id, lease_token: claim.lease_token, code, at });
  }

  /** Call a SQL function; an undefined argument takes its default. Raises a Problem: 503, or the function's own. */
  async rpc<T>(name: string, named: Record<string, unknown>): Promise<T> {
    const { data, error } = await this.#client.rpc(name, named);
    if (!error) return data as T;
    // PostgreSQL's message may quote a value, so that only its code is logged.
    log("error", "database_failed", { rpc: name, code: error.code });
    const status = /^PT(4\d\d)$/.exec(error.code ?? "")?.[1];
    if (status) {
      throw new Problem(Number(status), "refused_by_database", `The database refused ${name}() (${error.code}).`);
    }
    throw new Problem(
      503,
      "database_unavailable",
      `The database did not answer ${name}() (${error.code || "no answer"}).`,
    );
  }
}

function fetchInTime(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
  const limit = AbortSignal.timeout(RESPONSE_MILLISECONDS);
  return fetch(input, { ...init, signal: init.signal ? AbortSignal.any([init.signal, limit]) : limit });
}
