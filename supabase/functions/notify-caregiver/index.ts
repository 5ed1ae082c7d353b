/**
 * Sends what the outbox holds: messages to caregivers that are due. Asked by the database's doorbell, by a schedule, or by
 * an operator: POST `{at?}`, with RETROCARE_FUNCTIONS_KEY as bearer.
 *
 * It promises: it may be asked at any moment, by any number of callers, and ends within about a minute; what it did not
 * come to is due still. A message counts as sent when its provider has accepted it, and not before; some minutes later the
 * provider is asked whether it arrived. The answer counts what was done; one message's failure is a row with a code, and no
 * failure of the request.
 */
import { readAsked, RUN_MILLISECONDS } from "../_shared/errands.ts";
import { log } from "../_shared/events.ts";
import { INTERNET } from "../_shared/exchange.ts";
import { answered } from "../_shared/problems.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { deliver } from "./delivering.ts";
import { collectReceipts } from "./receipts.ts";

const SEND_SECONDS = 15;

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  patience: { readonly runMilliseconds?: number; readonly sendSeconds?: number } = {},
): Promise<Response> {
  return answered("notify-caregiver", async () => {
    const begun = performance.now();
    const { at } = await readAsked(request, environment);
    const settings = readSettings(environment);
    const until = begun + (patience.runMilliseconds ?? RUN_MILLISECONDS);
    const tools = { environment, settings, network: INTERNET, seconds: patience.sendSeconds ?? SEND_SECONDS };
    const delivered = await deliver({ ...(at ? { at } : {}), until, tools });
    const receipts = await collectReceipts(tools, until, at);
    log("info", "delivered", {
      claimed: delivered.claimed,
      accepted: delivered.accepted,
      is_done: delivered.isDone,
      receipts: receipts.asked,
      undelivered: receipts.undelivered,
      ms: Math.round(performance.now() - begun),
    });
    return Response.json({ delivered, receipts });
  });
}

if (import.meta.main) Deno.serve((request) => handle(request));
