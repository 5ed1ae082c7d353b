/** The sweep: calls of the provider's list that no report ever told of are taken in as if it had. */
import { Database } from "./database.ts";
import { log } from "./events.ts";
import { FetchFailure } from "./fetches.ts";
import { updatedCalls } from "./listing.ts";
import { Problem } from "./problems.ts";
import { readReport, UnreadableReport } from "./report.ts";
import type { Settings } from "./settings.ts";
import { codeOf, type ListedCall, Vapi } from "./vapi.ts";

export interface Swept {
  readonly listed: number;
  readonly received: number;
  /** Calls of the list that could not be read, and pages that hold such. */
  readonly unreadable: number;
  /** The whole list was gone through; if not, the next sweep goes on where this one ended. */
  readonly isDone: boolean;
  readonly code?: string;
}

/** So many calls that the database does not take now are enough to say that it takes none. */
const MOST_FAILURES = 3;

/** List the provider's calls since the last sweep, and receive those that are not known. Raises a Problem. */
export async function sweep(settings: Settings, until: number, at?: string): Promise<Swept> {
  const vapi = new Vapi(settings);
  const database = new Database(settings);
  if (!vapi.hasKey) {
    log("error", "sweep_impossible", { code: "provider_key_missing" });
    return { listed: 0, received: 0, unreadable: 0, isDone: false, code: "provider_key_missing" };
  }
  const now = at ? Date.parse(at) : Date.now();
  const since = Date.parse(await database.sweepSince(at) ?? new Date(now).toISOString());
  let listed = 0, received = 0, unreadable = 0, isOver = false, code: string | undefined;
  const failures: Problem[] = [];
  let sweptUntil = since;

  /** What cannot be read, or not be stored now, keeps no other call from being received. */
  const receive = async (call: ListedCall): Promise<void> => {
    try {
      const taken = await database.receiveCallReport(readReport({ call }), at);
      received++;
      log("info", "call_swept", { call_log_id: taken.call_log_id, disposition: taken.disposition });
    } catch (error) {
      if (error instanceof UnreadableReport || (error instanceof Problem && error.status < 500)) unreadable++;
      else if (error instanceof Problem && failures.push(error) < MOST_FAILURES) return;
      else throw error;
    }
  };

  try {
    for await (const page of updatedCalls(vapi, since, now + 1)) {
      const ended = page.calls.filter((call) => call.status === "ended");
      listed += page.calls.length;
      if (page.isPassedOver) unreadable++;
      const unreported = new Set(
        ended.length ? await database.unreportedCalls(ended.map((call) => String(call.id))) : [],
      );
      for (const call of ended.filter((call) => unreported.has(String(call.id)))) {
        if (performance.now() <= until) await receive(call);
      }
      isOver = performance.now() > until;
      if (isOver) break;
      if (failures.length === 0) sweptUntil = Math.min(page.listedUntil, now);
    }
  } catch (error) {
    if (!(error instanceof FetchFailure)) throw error;
    code = codeOf(error);
    log("error", "sweep_failed", { code, status: error.status });
  }
  code ??= failures[0]?.code;
  if (sweptUntil > since) await database.finishSweep(new Date(sweptUntil).toISOString());
  return { listed, received, unreadable, isDone: !isOver && code === undefined, ...(code ? { code } : {}) };
}
