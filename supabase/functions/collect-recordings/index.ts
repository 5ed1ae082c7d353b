/**
 * Copies recordings that are due from the provider into Storage. Asked by the database's doorbell, by a schedule, or by
 * an operator: POST `{call_log_id?, at?, sweep?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It promises: it may be asked at any moment, by any number of callers, and ends within a minute or two; what it did not
 * come to is due still. With `sweep` it first asks the provider for calls that were never reported. The answer counts
 * what was done; one recording's failure is a row with a code, and no failure of the request.
 */
import { collect, type Errand } from "../_shared/collecting.ts";
import { type Asked, misunderstood, readAsked, RUN_MILLISECONDS } from "../_shared/errands.ts";
import { log } from "../_shared/events.ts";
import { answered } from "../_shared/problems.ts";
import { isUuid } from "../_shared/requests.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { sweep } from "../_shared/sweeping.ts";

const SWEEP_MILLISECONDS = 25_000;

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  runMilliseconds = RUN_MILLISECONDS,
): Promise<Response> {
  return answered("collect-recordings", async () => {
    const begun = performance.now();
    const asked = errandOf(await readAsked(request, environment));
    const settings = readSettings(environment);
    const sweepUntil = begun + Math.min(SWEEP_MILLISECONDS, runMilliseconds);
    const swept = asked.isSweep ? await sweep(settings, sweepUntil, asked.at) : undefined;
    const collected = await collect(settings, { ...asked, until: begun + runMilliseconds });
    log("info", "collected", {
      claimed: collected.claimed,
      stored: collected.stored,
      listed: swept?.listed,
      received: swept?.received,
      ms: Math.round(performance.now() - begun),
    });
    return Response.json({ collected, ...(swept ? { swept } : {}) });
  });
}

function errandOf({ at, fields }: Asked): Omit<Errand, "until"> & { readonly isSweep: boolean } {
  const { call_log_id: callLogId, sweep: isSweep = false } = fields;
  if (callLogId !== undefined && !isUuid(callLogId)) throw misunderstood("call_log_id is no uuid");
  if (typeof isSweep !== "boolean") throw misunderstood("sweep is neither true nor false");
  return { ...(callLogId ? { callLogId } : {}), ...(at ? { at } : {}), isSweep };
}

if (import.meta.main) Deno.serve((request) => handle(request));
