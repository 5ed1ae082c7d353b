/**
 * Deletes what was erased from the database and is elsewhere: recordings in Storage, calls at the provider. Asked by the
 * database's doorbell, by a schedule, or by an operator: POST `{at?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It promises: it may be asked at any moment, by any number of callers, and ends within a minute; what it did not come to is
 * due still. A deletion is done when it was seen to be; the answer counts.
 */
import { deleteDue } from "../_shared/deleting.ts";
import { readAsked, RUN_MILLISECONDS } from "../_shared/errands.ts";
import { log } from "../_shared/events.ts";
import { answered } from "../_shared/problems.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";

export function handle(request: Request, environment: Environment = Deno.env): Promise<Response> {
  return answered("delete-recordings", async () => {
    const { at } = await readAsked(request, environment);
    const deleted = await deleteDue(readSettings(environment), performance.now() + RUN_MILLISECONDS, at);
    log("info", "deletions", { claimed: deleted.claimed, done: deleted.done });
    return Response.json({ deleted });
  });
}

if (import.meta.main) Deno.serve((request) => handle(request));
