/**
 * Copies recordings that are due from the provider into Storage. Asked by the database's doorbell, by a schedule, or by
 * an operator: POST `{call_log_id?, at?, sweep?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It promises: it may be asked at any moment, by any number of callers, and ends within a minute or two; what it did not
 * come to is due still. With `sweep` it first asks the provider for calls that were never reported. The answer counts
 * what was done; one recording's failure is a row with a code, and no failure of the request.
 */
import { collect, type Errand } from "../_shared/collecting.ts";
import { log } from "../_shared/events.ts";
import { answered, Problem } from "../_shared/problems.ts";
import { isUuid, moment, parseJson, readBody, requirePost } from "../_shared/requests.ts";
import { requireFunctionsKey } from "../_shared/senders.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { sweep } from "../_shared/sweeping.ts";

const MAXIMUM_BODY_BYTES = 10_000;
const RUN_MILLISECONDS = 40_000;
const SWEEP_MILLISECONDS = 25_000;

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  runMilliseconds = RUN_MILLISECONDS,
): Promise<Response> {
  return answered("collect-recordings", async () => {
    requirePost(request);
    requireFunctionsKey(request, environment);
    const begun = performance.now();
    const asked = askedFor(await readBody(request, MAXIMUM_BODY_BYTES));
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

type Asked = Omit<Errand, "until"> & { readonly isSweep: boolean };

function askedFor(body: Uint8Array): Asked {
  const payload = body.byteLength === 0 ? {} : parseJson(body);
  if (typeof payload !== "object" || payload === null || Array.isArray(payload)) throw wrong("the body is no object");
  const { call_log_id: callLogId, at, sweep: isSweep = false } = payload as Record<string, unknown>;
  if (callLogId !== undefined && !isUuid(callLogId)) throw wrong("call_log_id is no uuid");
  if (typeof isSweep !== "boolean") throw wrong("sweep is neither true nor false");
  const moved = at === undefined ? undefined : moment(at);
  if (moved === null) throw wrong("at is no moment");
  return { ...(callLogId ? { callLogId } : {}), ...(moved ? { at: moved } : {}), isSweep };
}

function wrong(why: string): Problem {
  return new Problem(400, "bad_request", `The request is not understood: ${why}.`);
}

if (import.meta.main) Deno.serve((request) => handle(request));
