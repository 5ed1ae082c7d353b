/** The sweep: calls of the provider's list that no report ever told of are taken in as if it had. */
import { Database } from "./database.ts";
import { log } from "./events.ts";
import { FetchFailure } from "./fetches.ts";
import { readReport, UnreadableReport } from "./report.ts";
import type { Settings } from "./settings.ts";
import { codeOf, Vapi } from "./vapi.ts";

export interface Swept {
  readonly listed: number;
  readonly received: number;
  /** Calls of the list that could not be read. */
  readonly unreadable: number;
  /** The whole list was gone through; if not, the next sweep begins where this one did. */
  readonly isDone: boolean;
  readonly code?: string;
}

/** List the provider's calls since the last sweep, and receive those that are not known. Raises a Problem. */
export async function sweep(settings: Settings, until: number, at?: string): Promise<Swept> {
  const vapi = new Vapi(settings);
  const database = new Database(settings);
  if (!vapi.hasKey) {
    log("error", "sweep_impossible", { code: "provider_key_missing" });
    return { listed: 0, received: 0, unreadable: 0, isDone: false, code: "provider_key_missing" };
  }
  const now = at ?? new Date().toISOString();
  const since = await database.sweepSince(at) ?? now;
  let listed = 0, received = 0, unreadable = 0, isDone = true, code: string | undefined;
  try {
    for await (const calls of vapi.calls(since, now)) {
      const ended = calls.filter((call) => call.status === "ended");
      listed += calls.length;
      const unreported = new Set(
        ended.length ? await database.unreportedCalls(ended.map((call) => String(call.id))) : [],
      );
      for (const call of ended.filter((call) => unreported.has(String(call.id)))) {
        if (performance.now() > until) break;
        try {
          const taken = await database.receiveCallReport(readReport({ call }), at);
          received++;
          log("info", "call_swept", { call_log_id: taken.call_log_id, disposition: taken.disposition });
        } catch (error) {
          if (!(error instanceof UnreadableReport)) throw error;
          unreadable++;
        }
      }
      isDone = performance.now() <= until;
      if (!isDone) break;
    }
  } catch (error) {
    if (!(error instanceof FetchFailure)) throw error;
    isDone = false;
    code = codeOf(error);
    log("error", "sweep_failed", { code, status: error.status });
  }
  if (isDone) await database.finishSweep(now);
  return { listed, received, unreadable, isDone, ...(code ? { code } : {}) };
}
