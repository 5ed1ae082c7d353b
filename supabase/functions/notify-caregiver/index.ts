/**
 * Sends the messages to caregivers that are due. Called by the database's wake-ups, by a schedule or by an operator:
 * POST `{at?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It may be called at any time, by any number of callers, and ends within about a minute; what it did not get to is due
 * still. A message counts as sent when its provider has accepted it, and not before; some minutes later the provider is
 * asked whether it arrived. The response counts what was done; the failure of one message is a row with a code, not a
 * failure of the request.
 */
import { INTERNET } from "../_shared/http/pinned_client.ts";
import { respond } from "../_shared/http/problems.ts";
import { log } from "../_shared/log.ts";
import { readRunOptions } from "../_shared/run_options.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { deliver } from "./deliver.ts";
import { collectReceipts } from "./receipts.ts";

const SEND_SECONDS = 15;

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  limits: { readonly runMilliseconds?: number; readonly sendSeconds?: number } = {},
): Promise<Response> {
  return respond("notify-caregiver", async () => {
    const begun = performance.now();
    const { options } = await readRunOptions(request, environment, limits.runMilliseconds);
    const settings = readSettings(environment, []);
    const tools = { environment, settings, network: INTERNET, seconds: limits.sendSeconds ?? SEND_SECONDS };
    const delivered = await deliver(tools, options);
    const receipts = await collectReceipts(tools, options);
    log("info", "run_finished", {
      function: "notify-caregiver",
      claimed: delivered.claimed,
      done: delivered.done,
      is_done: delivered.isDone,
      receipts: receipts.claimed,
      undelivered: receipts.failed.undelivered,
      ms: Math.round(performance.now() - begun),
    });
    return Response.json({ delivered, receipts });
  });
}

if (import.meta.main) Deno.serve((request) => handle(request));
