/**
 * Copying what is due: claimed with a lease, fetched through the guard, put into Storage, given to its call.
 *
 * Nothing is lost where a run ends in the middle: the lease runs out, and another run claims the recording again. A copy
 * is made to the same path, and storing it twice is storing it once.
 */
import { Database, type RecordingClaim, UPLOAD_MILLISECONDS } from "./database.ts";
import { log } from "./events.ts";
import { kind, Problem } from "./problems.ts";
import { wakeService } from "./service.ts";
import type { Settings } from "./settings.ts";
import { findRecording, LONGEST_SEARCH, RecordingFailure } from "./sources.ts";

/** What is left of a lease when everything took as long as it may. */
const MARGIN_SECONDS = 60;

let busy: Promise<unknown> = Promise.resolve();

/** One recording at a time in this process, whoever asks: memory is for one. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const turn = busy.then(work);
  busy = turn.catch(() => {});
  return turn;
}

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
  const leaseSeconds = LONGEST_SEARCH * settings.fetchSeconds + UPLOAD_MILLISECONDS / 1000 + MARGIN_SECONDS;
  const outcomes: Outcome[] = [];
  const copyNext = async () => {
    if (performance.now() >= errand.until) return false;
    const [claim] = await database.claimRecordings(worker, 1, leaseSeconds, errand.callLogId, errand.at);
    if (claim) outcomes.push(await copy(claim, database, errand));
    return !claim || errand.callLogId !== undefined;
  };
  let isDone = false;
  try {
    while (!isDone && performance.now() < errand.until) isDone = await inTurn(copyNext);
  } finally {
    if (outcomes.some((outcome) => "stored" in outcome)) await wakeService(settings);
  }
  const failed: Record<string, number> = {};
  for (const outcome of outcomes) if ("failed" in outcome) failed[outcome.failed] = (failed[outcome.failed] ?? 0) + 1;
  const stored = outcomes.filter((outcome) => "stored" in outcome).length;
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
