/** The database as the functions reach it: one method for each SQL function, over the Data API, as service_role. */
import { createClient, type SupabaseClient } from "npm:@supabase/supabase-js@2.119.0";
import { log } from "./events.ts";
import { Problem } from "./problems.ts";
import type { CallReport, SourceChannel } from "./report.ts";
import type { Settings } from "./settings.ts";
import { PROVIDER } from "./vapi.ts";

const ANSWER_MILLISECONDS = 15_000;
/** An upload takes no longer. */
export const UPLOAD_MILLISECONDS = 60_000;
const PIECE_BYTES = 262_144;

export interface ReceivedCall {
  readonly call_log_id: string | null;
  readonly disposition: "judge" | "skip" | "unknown" | "unmatched" | "erased";
  readonly is_new: boolean;
}

export interface RecordingClaim {
  readonly call_log_id: string;
  readonly patient_id: string;
  readonly provider: string;
  /** The key that is set here is that of the provider's own account. */
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
  /** bucket/path, or provider/call id. */
  readonly reference: string;
  readonly attempts: number;
  readonly lease_token: string;
}

export class Database {
  readonly #client: SupabaseClient;

  constructor(readonly settings: Settings) {
    this.#client = createClient(settings.supabaseUrl, settings.supabaseKey, {
      auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
      global: { fetch: patient },
    });
  }

  receiveCallReport(report: CallReport, at?: string): Promise<ReceivedCall> {
    const [best] = report.sources;
    return this.rpc("receive_call_report", {
      provider: PROVIDER,
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

  unreportedCalls(callIds: readonly string[]): Promise<string[]> {
    return this.rpc("unreported_calls", { provider: PROVIDER, provider_call_ids: callIds });
  }

  sweepSince(at?: string): Promise<string | null> {
    return this.rpc("reconcile_since", { provider: PROVIDER, at });
  }

  async finishSweep(until: string): Promise<void> {
    await this.rpc("finish_reconciliation", { provider: PROVIDER, until });
  }

  claimRecordings(
    worker: string,
    count: number,
    leaseSeconds: number,
    callLogId?: string,
    at?: string,
  ): Promise<RecordingClaim[]> {
    return this.rpc("claim_recordings", { worker, count, lease_seconds: leaseSeconds, call_log_id: callLogId, at });
  }

  /** Say whether the lease still held. */
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

  claimDeletions(worker: string, count: number, leaseSeconds: number, at?: string): Promise<DeletionClaim[]> {
    return this.rpc("claim_deletions", { worker, count, lease_seconds: leaseSeconds, at });
  }

  /** Say whether the lease still held. */
  finishDeletion(claim: DeletionClaim, at?: string): Promise<boolean> {
    return this.rpc("finish_deletion", { deletion_id: claim.deletion_id, lease_token: claim.lease_token, at });
  }

  async failDeletion(claim: DeletionClaim, code: string, at?: string): Promise<void> {
    await this.rpc("fail_deletion", { deletion_id: claim.deletion_id, lease_token: claim.lease_token, code, at });
  }

  /** Remove a file, and see that it is gone. Raises a Problem (503). */
  async remove(bucket: string, path: string): Promise<void> {
    const files = this.#client.storage.from(bucket);
    const { error } = await files.remove([path]);
    const folder = path.split("/").slice(0, -1).join("/"), name = path.split("/").at(-1)!;
    const { data: left, error: unseen } = await files.list(folder, { search: name, limit: 100 });
    if (error || unseen || left.some((file) => file.name === name)) {
      log("error", "storage_failed", { step: error ? "remove" : "list" });
      throw new Problem(503, "storage_unavailable", "Storage did not remove the recording.");
    }
  }

  /** Put a file into the private bucket; a file of that path is replaced. Raises a Problem (503). */
  async upload(path: string, content: Uint8Array, contentType: string): Promise<void> {
    const { error } = await this.#client.storage.from(this.settings.bucket)
      .upload(path, flowing(content), { contentType, upsert: true, duplex: "half" });
    if (error) {
      const status = "status" in error ? Number(error.status) : 0;
      log("error", "storage_failed", { status });
      throw new Problem(503, "storage_unavailable", `Storage did not take the recording (${status || "no answer"}).`);
    }
  }

  /** Call a SQL function; an argument that is undefined is left to its default. Raises a Problem: 503, or the function's own. */
  async rpc<T>(name: string, named: Record<string, unknown>): Promise<T> {
    const { data, error } = await this.#client.rpc(name, named);
    if (!error) return data as T;
    // PostgreSQL's message may quote a value; its code says enough.
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

/** fetch, for as long as an answer may take, unless the caller says otherwise. */
function patient(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
  const isUpload = init.body instanceof ReadableStream;
  const limit = AbortSignal.timeout(isUpload ? UPLOAD_MILLISECONDS : ANSWER_MILLISECONDS);
  return fetch(input, { ...init, signal: init.signal ? AbortSignal.any([init.signal, limit]) : limit });
}

/** The same bytes a piece at a time: given to fetch as they are, they would be in memory three times. */
function flowing(content: Uint8Array): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at < content.byteLength) controller.enqueue(content.slice(at, at += PIECE_BYTES));
      else controller.close();
    },
  });
}
