/**
 * Copying what is due: claimed with a lease, fetched through the guard, put into Storage, given to its call.
 *
 * Nothing is lost where a run ends in the middle: the lease runs out, and another run claims the recording again. A copy
 * is made to the same path, and storing it twice is storing it once.
 */
import { Database, type RecordingClaim } from "./database.ts";
import { log } from "./events.ts";
import { kind, Problem } from "./problems.ts";
import { wakeService } from "./service.ts";
import type { Settings } from "./settings.ts";
import { findRecording, RecordingFailure } from "./sources.ts";

/** A recording is in memory twice while it is copied. */
const LANES = 2;
const LEASE_SECONDS = 180;

export interface Errand {
  /** Only this call's recording, if it is due. */
  readonly callLogId?: string;
  /** The moment that is played; the clock's where it is not given. */
  readonly at?: string;
  /** Claim nothing after this moment of performance.now(). */
  readonly until: number;
}

export interface Collected {
  readonly claimed: number;
  readonly stored: number;
  readonly lost: number;
  /** How many failed, by code. */
  readonly failed: Readonly<Record<string, number>>;
  /** Everything that was due was claimed. */
  readonly isDone: boolean;
}

type Outcome = { readonly stored: true } | { readonly lost: true } | { readonly failed: string };

/** Copy what is due, and wake the service for it. Raises a Problem where the database does not answer. */
export async function collect(settings: Settings, errand: Errand): Promise<Collected> {
  const database = new Database(settings);
  const worker = `collect-recordings ${crypto.randomUUID()}`;
  const outcomes: Outcome[] = [];
  let isDone = false;
  const lane = async () => {
    while (!isDone && performance.now() < errand.until) {
      const [claim] = await database.claimRecordings(worker, 1, LEASE_SECONDS, errand.callLogId, errand.at);
      if (claim) outcomes.push(await copy(claim, database, errand));
      isDone ||= !claim || errand.callLogId !== undefined;
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: errand.callLogId ? 1 : LANES }, lane));
  const stored = outcomes.filter((outcome) => "stored" in outcome).length;
  if (stored > 0) await wakeService(settings);
  const broken = lanes.find((one) => one.status === "rejected");
  if (broken) throw broken.reason;
  const failed: Record<string, number> = {};
  for (const outcome of outcomes) if ("failed" in outcome) failed[outcome.failed] = (failed[outcome.failed] ?? 0) + 1;
  const lost = outcomes.filter((outcome) => "lost" in outcome).length;
  return { claimed: outcomes.length, stored, lost, failed, isDone };
}

async function copy(claim: RecordingClaim, database: Database, errand: Errand): Promise<Outcome> {
  const begun = performance.now();
  const fields = { call_log_id: claim.call_log_id, attempts: claim.attempts };
  try {
    const now = errand.at ? Date.parse(errand.at) : Date.now();
    const found = await findRecording(claim, database.settings, now);
    const path = `${claim.object_path}.${found.kind.extension}`;
    await database.upload(path, found.content, found.kind.contentType);
    const reference = `storage:${database.settings.bucket}/${path}`;
    // Of two channels, the times of the patient's words tell which is whose.
    const intervals = found.channel === "stereo" && claim.speech_intervals === null ? found.speechIntervals : null;
    const isOurs = await database.storeRecording(claim, reference, found.channel, intervals);
    log("info", isOurs ? "recording_stored" : "lease_lost", {
      ...fields,
      channel: found.channel,
      bytes: found.content.byteLength,
      ms: Math.round(performance.now() - begun),
    });
    return isOurs ? { stored: true } : { lost: true };
  } catch (error) {
    const failure = failureOf(error);
    const state = await database.failRecording(claim, failure.code, failure.message, failure.isPermanent, errand.at);
    log(MENDED_BY_OPERATOR.includes(failure.code) ? "error" : "warning", "recording_failed", {
      ...fields,
      code: failure.code,
      state,
      error: failure.code === "internal_error" ? kind(error) : undefined,
      ms: Math.round(performance.now() - begun),
    });
    return { failed: failure.code };
  }
}

const MENDED_BY_OPERATOR = [
  "provider_unauthorised",
  "provider_key_missing",
  "recording_refused",
  "storage_unavailable",
  "internal_error",
];

function failureOf(error: unknown): RecordingFailure {
  if (error instanceof RecordingFailure) return error;
  if (error instanceof Problem) return new RecordingFailure(error.code, error.message);
  return new RecordingFailure("internal_error", "The function failed; its log says why.");
}
