/**
 * Deletes what was erased from the database and is elsewhere: recordings in Storage, calls at the provider. Asked by the
 * database's doorbell, by a schedule, or by an operator: POST `{at?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It promises: it may be asked at any moment, by any number of callers, and ends within a minute; what it did not come to is
 * due still. A deletion is done when it was seen to be; the answer counts.
 */
import { deleteDue } from "../_shared/deleting.ts";
import { log } from "../_shared/events.ts";
import { answered, Problem } from "../_shared/problems.ts";
import { moment, parseJson, readBody, requirePost } from "../_shared/requests.ts";
import { requireFunctionsKey } from "../_shared/senders.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";

const MAXIMUM_BODY_BYTES = 10_000;
const RUN_MILLISECONDS = 40_000;

export function handle(request: Request, environment: Environment = Deno.env): Promise<Response> {
  return answered("delete-recordings", async () => {
    requirePost(request);
    requireFunctionsKey(request, environment);
    const at = momentOf(await readBody(request, MAXIMUM_BODY_BYTES));
    const deleted = await deleteDue(readSettings(environment), performance.now() + RUN_MILLISECONDS, at);
    log("info", "deletions", { claimed: deleted.claimed, done: deleted.done });
    return Response.json({ deleted });
  });
}

function momentOf(body: Uint8Array): string | undefined {
  const payload = body.byteLength === 0 ? {} : parseJson(body);
  const at = (payload as Record<string, unknown> | null)?.at;
  const moved = at === undefined ? undefined : moment(at);
  if (moved === null) throw new Problem(400, "bad_request", "The request is not understood: at is no moment.");
  return moved;
}

if (import.meta.main) Deno.serve((request) => handle(request));
