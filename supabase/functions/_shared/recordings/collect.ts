/**
 * Collecting recordings that are due: each is fetched, put into Storage, and attached to its call.
 *
 * A file is always uploaded to the same path, and storing a recording twice has the effect of storing it once, so that
 * a run that was cut off can be repeated.
 */
import { Database, type RecordingClaim } from "../database/client.ts";
import { Storage, UPLOAD_MILLISECONDS } from "../database/storage.ts";
import { errorKind, Problem } from "../http/problems.ts";
import { log } from "../log.ts";
import { type Counts, drain, type Outcome } from "../queue.ts";
import type { RunOptions } from "../run_options.ts";
import { wakeService } from "../service.ts";
import type { Settings } from "../settings.ts";
import { findRecording, RecordingFailure, SEARCH_FETCHES } from "./search.ts";

/** What is left of a lease when search and upload took as long as they may. */
const MARGIN_SECONDS = 60;

const MENDED_BY_OPERATOR = [
  "provider_unauthorised",
  "provider_key_missing",
  "recording_refused",
  "storage_unavailable",
  "internal_error",
];

let lastTurn: Promise<unknown> = Promise.resolve();

/** One recording at a time in this process, for all requests: there is memory for one. */
function inTurn<T>(step: () => Promise<T>): Promise<T> {
  const turn = lastTurn.then(step);
  lastTurn = turn.catch(() => {});
  return turn;
}

export interface CollectOptions extends RunOptions {
  /** Only this call's recording, if it is due. */
  readonly callLogId?: string;
}

/** Collect what is due, then wake the service for it. Raises a Problem if the database does not answer. */
export async function collect(settings: Settings, options: CollectOptions): Promise<Counts> {
  const database = new Database(settings);
  const storage = new Storage(settings);
  const worker = `collect-recordings ${crypto.randomUUID()}`;
  const leaseSeconds = SEARCH_FETCHES * settings.fetchSeconds + UPLOAD_MILLISECONDS / 1000 + MARGIN_SECONDS;
  let hasStored = false;
  try {
    return await drain({
      claim: () =>
        database.claimRecording(
          worker,
          leaseSeconds,
          options.callLogId,
          options.at,
        ),
      work: async (claim) => {
        const outcome = await copy(claim, database, storage, options);
        if (outcome === "done") hasStored = true;
        return outcome;
      },
      until: options.until,
      inTurn,
    });
  } finally {
    if (hasStored) await wakeService(settings);
  }
}

async function copy(
  claim: RecordingClaim,
  database: Database,
  storage: Storage,
  options: CollectOptions,
): Promise<Outcome> {
  const begun = performance.now();
  const fields = { call_log_id: claim.call_log_id, attempts: claim.attempts };
  try {
    const now = options.at ? Date.parse(options.at) : Date.now();
    const found = await findRecording(claim, database.settings, now);
    const path = `${claim.object_path}.${found.kind.extension}`;
    await storage.upload(path, found.content, found.kind.contentType);
    const reference = `storage:${database.settings.bucket}/${path}`;
    // On two channels, the times of the patient's words show which channel is the patient's.
    const intervals = found.channel === "stereo" && claim.speech_intervals === null ? found.speechIntervals : null;
    const isOurs = await database.storeRecording(claim, reference, found.channel, intervals);
    log("info", isOurs ? "recording_stored" : "lease_lost", {
      ...fields,
      channel: found.channel,
      bytes: found.content.byteLength,
      ms: Math.round(performance.now() - begun),
    });
    return isOurs ? "done" : "lost";
  } catch (error) {
    const failure = failureOf(error);
    const state = await database.failRecording(claim, failure.code, failure.message, failure.isPermanent, options.at);
    log(
      MENDED_BY_OPERATOR.includes(failure.code) ? "error" : "warning",
      "recording_failed",
      {
        ...fields,
        code: failure.code,
        state,
        error: failure.code === "internal_error" ? errorKind(error) : undefined,
        ms: Math.round(performance.now() - begun),
      },
    );
    return { failed: failure.code };
  }
}

function failureOf(error: unknown): RecordingFailure {
  if (error instanceof RecordingFailure) return error;
  if (error instanceof Problem) return new RecordingFailure(error.code, error.message);
  return new RecordingFailure("internal_error", "The function failed; its log says why.");
}
