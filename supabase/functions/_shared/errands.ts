/** What the database's doorbell, a schedule or an operator sends to have work done: a small JSON object, or nothing. */
import { Problem } from "./problems.ts";
import { moment, parseJson, readBody, requirePost } from "./requests.ts";
import { requireFunctionsKey } from "./senders.ts";
import type { Environment } from "./settings.ts";

const MAXIMUM_BODY_BYTES = 10_000;
/** How long a function works on what is due before it answers; what it did not come to is due still. */
export const RUN_MILLISECONDS = 40_000;

export interface Asked {
  /** The moment as of which work is due; the clock's where nothing is said. */
  readonly at?: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Read who asks, and for what. Raises a Problem: 400, 401, 405, 408, 413. */
export async function readAsked(request: Request, environment: Environment): Promise<Asked> {
  requirePost(request);
  requireFunctionsKey(request, environment);
  const body = await readBody(request, MAXIMUM_BODY_BYTES);
  const payload = body.byteLength === 0 ? {} : parseJson(body);
  if (typeof payload !== "object" || payload === null || Array.isArray(payload)) {
    throw misunderstood("the body is no object");
  }
  const fields = payload as Record<string, unknown>;
  const at = fields.at === undefined ? undefined : moment(fields.at);
  if (at === null) throw misunderstood("at is no moment");
  return { fields, ...(at ? { at } : {}) };
}

export function misunderstood(why: string): Problem {
  return new Problem(400, "bad_request", `The request is not understood: ${why}.`);
}
