/**
 * Deletes what was erased from the database and exists elsewhere: recordings in Storage, calls at the phone providers.
 * Called by the database's wake-ups, by a schedule or by an operator: POST `{at?}`, with RETROCARE_FUNCTIONS_KEY as
 * bearer.
 *
 * It may be called at any time, by any number of callers, and ends within a minute; what it did not get to is due
 * still. A deletion is done when it was verified. The response counts them.
 */
import { respond } from "../_shared/http/problems.ts";
import { log } from "../_shared/log.ts";
import { readRunOptions } from "../_shared/run_options.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { PROVIDERS } from "../providers/registry.ts";
import { deleteDue } from "./delete.ts";

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  providers = PROVIDERS,
): Promise<Response> {
  return respond("delete-recordings", async () => {
    const begun = performance.now();
    const { options } = await readRunOptions(request, environment);
    const deleted = await deleteDue(readSettings(environment, providers), options);
    log("info", "run_finished", {
      function: "delete-recordings",
      claimed: deleted.claimed,
      done: deleted.done,
      is_done: deleted.isDone,
      ms: Math.round(performance.now() - begun),
    });
    return Response.json({ deleted });
  });
}

if (import.meta.main) Deno.serve((request) => handle(request));
