/** The options of a run of a work list: a small JSON object, or nothing, from a wake-up, a schedule or an operator. */
import { requireFunctionsKey } from "./http/authentication.ts";
import { Problem } from "./http/problems.ts";
import { moment, parseJson, readBody, requirePost } from "./http/requests.ts";
import type { Environment } from "./settings.ts";

const MAXIMUM_BODY_BYTES = 10_000;
/** How long a run claims work before it answers; what is left is due still. */
export const RUN_MILLISECONDS = 40_000;

export interface RunOptions {
  /** The time as of which work is due, in place of the clock's. */
  readonly at?: string;
  /** Claim nothing after this moment of performance.now(). */
  readonly until: number;
}

export interface RunRequest {
  readonly options: RunOptions;
  /** Everything in the body, for options that only one function has. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Authenticate the caller and read the options. Raises a Problem: 400, 401, 405, 408, 413. */
export async function readRunOptions(
  request: Request,
  environment: Environment,
  runMilliseconds = RUN_MILLISECONDS,
): Promise<RunRequest> {
  const until = performance.now() + runMilliseconds;
  requirePost(request);
  requireFunctionsKey(request, environment);
  const body = await readBody(request, MAXIMUM_BODY_BYTES);
  const payload = body.byteLength === 0 ? {} : parseJson(body);
  if (typeof payload !== "object" || payload === null || Array.isArray(payload)) {
    throw invalidOptions("the body must be a JSON object");
  }
  const fields = payload as Record<string, unknown>;
  const at = fields.at === undefined ? undefined : moment(fields.at);
  if (at === null) throw invalidOptions("at must be a time");
  return { options: { until, ...(at ? { at } : {}) }, fields };
}

export function invalidOptions(reason: string): Problem {
  return new Problem(400, "bad_request", `The request's options are invalid: ${reason}.`);
}
