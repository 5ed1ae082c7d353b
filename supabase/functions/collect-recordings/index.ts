/**
 * Copies recordings that are due from the phone providers into Storage. Called by the database's wake-ups, by a
 * schedule or by an operator: POST `{call_log_id?, at?, reconcile?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It may be called at any time, by any number of callers, and ends within a minute or two; what it did not get to is
 * due still. With `reconcile` it first looks through the providers' calls for those that were never reported. The
 * response counts what was done; the failure of one recording is a row with a code, not a failure of the request.
 */
import { respond } from "../_shared/http/problems.ts";
import { isUuid } from "../_shared/http/requests.ts";
import { log } from "../_shared/log.ts";
import { collect } from "../_shared/recordings/collect.ts";
import { invalidOptions, readRunOptions, RUN_MILLISECONDS, type RunRequest } from "../_shared/run_options.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { PROVIDERS } from "../providers/registry.ts";
import { reconcile } from "./reconcile.ts";

const RECONCILE_MILLISECONDS = 25_000;

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  runMilliseconds = RUN_MILLISECONDS,
  providers = PROVIDERS,
): Promise<Response> {
  return respond("collect-recordings", async () => {
    const begun = performance.now();
    const run = await readRunOptions(request, environment, runMilliseconds);
    const { callLogId, isReconciling } = fieldsOf(run);
    const settings = readSettings(environment, providers);
    const reconcileUntil = Math.min(begun + RECONCILE_MILLISECONDS, run.options.until);
    const reconciled = isReconciling ? await reconcile(settings, { ...run.options, until: reconcileUntil }) : undefined;
    const collected = await collect(settings, { ...run.options, ...(callLogId ? { callLogId } : {}) });
    log("info", "run_finished", {
      function: "collect-recordings",
      claimed: collected.claimed,
      done: collected.done,
      is_done: collected.isDone,
      reconciled: reconciled && Object.values(reconciled).reduce((sum, { received }) => sum + received, 0),
      ms: Math.round(performance.now() - begun),
    });
    return Response.json({ collected, ...(reconciled ? { reconciled } : {}) });
  });
}

function fieldsOf({ fields }: RunRequest): { callLogId?: string; isReconciling: boolean } {
  const { call_log_id: callLogId, reconcile = false } = fields;
  if (callLogId !== undefined && !isUuid(callLogId)) throw invalidOptions("call_log_id must be a UUID");
  if (typeof reconcile !== "boolean") throw invalidOptions("reconcile must be true or false");
  return { isReconciling: reconcile, ...(callLogId ? { callLogId } : {}) };
}

if (import.meta.main) Deno.serve((request) => handle(request));
