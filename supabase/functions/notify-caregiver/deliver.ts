/** Sending messages that are due: each is handed to its channel, and the database is told how that ended. */
import { errorKind } from "../_shared/http/problems.ts";
import { log } from "../_shared/log.ts";
import { type Counts, drain, type Outcome } from "../_shared/queue.ts";
import type { RunOptions } from "../_shared/run_options.ts";
import { type Delivery, DeliveryFailure, type Tools } from "./channel.ts";
import * as channels from "./channels.ts";
import { Outbox } from "./outbox.ts";

const LANES = 4;
/** Where it runs out, the next claim is marked as one that may have been sent. */
const LEASE_SECONDS = 120;

/** Send what is due, the most urgent first. Raises a Problem if the database does not answer. */
export function deliver(tools: Tools, { at, until }: RunOptions): Promise<Counts> {
  const outbox = new Outbox(tools.settings, at);
  const worker = `notify-caregiver ${crypto.randomUUID()}`;
  return drain({
    claim: () => outbox.claim(worker, LEASE_SECONDS),
    work: (delivery) => send(delivery, outbox, tools),
    until,
    lanes: LANES,
  });
}

async function send(delivery: Delivery, outbox: Outbox, tools: Tools): Promise<Outcome> {
  const begun = performance.now();
  const fields = {
    delivery_id: delivery.delivery_id,
    alert_id: delivery.alert_id,
    call_log_id: delivery.call_log_id,
    channel: delivery.channel,
    attempts: delivery.attempts,
  };
  let providerMessageId: string | null;
  try {
    providerMessageId = await channelOf(delivery)(delivery, tools);
  } catch (error) {
    const failure = failureOf(error);
    const state = await outbox.fail(delivery, failure);
    log(failure.isOperators ? "error" : "warning", "delivery_failed", {
      ...fields,
      code: failure.code,
      state,
      may_have_been_sent: failure.mayHaveBeenSent,
      error: failure.code === "internal_error" ? errorKind(error) : undefined,
      ms: Math.round(performance.now() - begun),
    });
    return { failed: failure.code };
  }
  const isOurs = await outbox.finish(delivery, providerMessageId);
  log("info", isOurs ? "delivery_accepted" : "lease_lost", { ...fields, ms: Math.round(performance.now() - begun) });
  return isOurs ? "done" : "lost";
}

function channelOf(delivery: Delivery) {
  const name = delivery.channel;
  if (Object.hasOwn(channels, name)) return channels[name as keyof typeof channels];
  throw new DeliveryFailure("unknown_channel", "No such channel is deployed.", { isOperators: true });
}

function failureOf(error: unknown): DeliveryFailure {
  if (error instanceof DeliveryFailure) return error;
  // Nobody knows where it broke, so nobody knows whether the message had been sent.
  return new DeliveryFailure(
    "internal_error",
    "The function failed; its log says why.",
    { mayHaveBeenSent: true, isOperators: true },
  );
}
