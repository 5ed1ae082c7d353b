/** Reconciliation: finished calls on a provider's list that were never reported are received as if they had been. */
import { Database } from "../_shared/database/client.ts";
import { FetchFailure } from "../_shared/http/fetch_failure.ts";
import { errorKind, Problem } from "../_shared/http/problems.ts";
import { log } from "../_shared/log.ts";
import type { RunOptions } from "../_shared/run_options.ts";
import type { Settings } from "../_shared/settings.ts";
import {
  apiFailureCode,
  type CallReport,
  type ListedCall,
  type ProviderApi,
  UnreadableReport,
} from "../providers/provider.ts";
import { updatedCalls } from "./listing.ts";

export interface Reconciled {
  readonly listed: number;
  readonly received: number;
  /** Calls that could not be read or were skipped. */
  readonly unreadable: number;
  /** The whole list was read; if not, the next reconciliation continues where this one ended. */
  readonly isDone: boolean;
  readonly code?: string;
}

/** After this many calls that the database fails to take, it is taken to be unavailable. */
const MOST_FAILURES = 3;

/** Reconcile the calls of every provider, at the same time. Returns what came of each, by name. Raises a Problem. */
export async function reconcile(settings: Settings, options: RunOptions): Promise<Record<string, Reconciled>> {
  const providers = [...settings.apis];
  const ended = await Promise.allSettled(
    providers.map(([provider, api]) => reconcileProvider(provider, api, new Database(settings), options)),
  );
  const results = ended.map((one) => {
    if (one.status === "rejected") throw one.reason; // only now: it kept no other provider from being reconciled
    return one.value;
  });
  return Object.fromEntries(providers.map(([provider], index) => [provider, results[index]!]));
}

/** Receive the calls that were updated since the last reconciliation and are not known. Raises a Problem. */
async function reconcileProvider(
  provider: string,
  api: ProviderApi,
  database: Database,
  { at, until }: RunOptions,
): Promise<Reconciled> {
  if (!api.hasKey) return impossible(provider, "provider_key_missing");
  const from = await database.reconcileSince(provider, at);
  if (from === null) return impossible(provider, "provider_account_missing");
  const since = Date.parse(from);
  const now = at ? Date.parse(at) : Date.now();
  let listed = 0, received = 0, unreadable = 0, isOver = false, code: string | undefined;
  const failures: Problem[] = [];
  let reconciledUntil = since;

  /** A call that cannot be read, or that the database cannot take now, keeps no other from being received. */
  const receive = async (call: ListedCall): Promise<void> => {
    let report: CallReport;
    try {
      report = call.report();
    } catch (error) {
      unreadable++;
      if (!(error instanceof UnreadableReport)) {
        log("error", "call_unreadable", { provider, code: "internal_error", error: errorKind(error) });
      }
      return;
    }
    try {
      const receivedCall = await database.receiveCallReport(provider, report, at);
      received++;
      const { call_log_id, disposition } = receivedCall;
      log("info", "call_reconciled", { provider, call_log_id, disposition });
    } catch (error) {
      if (error instanceof Problem && error.status < 500) unreadable++;
      else if (error instanceof Problem && failures.push(error) < MOST_FAILURES) return;
      else throw error;
    }
  };

  try {
    for await (const page of updatedCalls(api, since, now + 1)) {
      const ended = page.calls.filter((call) => call.hasEnded);
      listed += page.calls.length;
      if (page.hasSkipped) unreadable++;
      const ids = ended.map((call) => call.id);
      const unreported = new Set(ids.length ? await database.unreportedCalls(provider, ids) : []);
      for (const call of ended.filter((call) => unreported.has(call.id))) {
        if (performance.now() <= until) await receive(call);
      }
      isOver = performance.now() > until;
      if (isOver) break;
      if (failures.length === 0) reconciledUntil = Math.min(page.listedUntil, now);
    }
  } catch (error) {
    if (!(error instanceof FetchFailure)) throw error;
    code = apiFailureCode(error);
    log("error", "reconciliation_failed", { provider, code, status: error.status });
  }
  code ??= failures[0]?.code;
  if (reconciledUntil > since) await database.finishReconciliation(provider, new Date(reconciledUntil).toISOString());
  return { listed, received, unreadable, isDone: !isOver && code === undefined, ...(code ? { code } : {}) };
}

function impossible(provider: string, code: string): Reconciled {
  log("error", "reconciliation_impossible", { provider, code });
  return { listed: 0, received: 0, unreadable: 0, isDone: false, code };
}
