/**
 * Sending what is due: claimed with a lease, given to its channel, and the outcome told to the outbox.
 *
 * Nothing is lost where a run ends in the middle: the lease runs out, and another run claims the message again, marked
 * as one that may have been sent already.
 */
import { log } from "../_shared/events.ts";
import { kind } from "../_shared/problems.ts";
import { type Delivery, DeliveryFailure, type Tools } from "./channel.ts";
import * as channels from "./channels.ts";
import { Outbox } from "./outbox.ts";

const LANES = 4;
const LEASE_SECONDS = 120;

export interface Errand {
  /** The moment that is played; the clock's where it is not given. */
  readonly at?: string;
  /** Claim nothing after this moment of performance.now(). */
  readonly until: number;
  readonly tools: Tools;
}

export interface Delivered {
  readonly claimed: number;
  readonly accepted: number;
  readonly lost: number;
  /** How many failed, by code. */
  readonly failed: Readonly<Record<string, number>>;
  /** Everything that was due was claimed. */
  readonly isDone: boolean;
}

type Outcome = "accepted" | "lost" | { readonly failed: string };

/** Send what is due, the most urgent first. Raises a Problem where the database does not answer. */
export async function deliver(errand: Errand): Promise<Delivered> {
  const outbox = new Outbox(errand.tools.settings, errand.at);
  const worker = `notify-caregiver ${crypto.randomUUID()}`;
  const outcomes: Outcome[] = [];
  let isDone = false;
  const lane = async () => {
    while (!isDone && performance.now() < errand.until) {
      const [delivery] = await outbox.claim(worker, 1, LEASE_SECONDS);
      if (delivery) outcomes.push(await send(delivery, outbox, errand.tools));
      else isDone = true;
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: LANES }, lane));
  const broken = lanes.find((one) => one.status === "rejected");
  if (broken) throw broken.reason;
  const failed: Record<string, number> = {};
  for (const outcome of outcomes) {
    if (typeof outcome === "object") failed[outcome.failed] = (failed[outcome.failed] ?? 0) + 1;
  }
  const count = (wanted: Outcome) => outcomes.filter((outcome) => outcome === wanted).length;
  return { claimed: outcomes.length, accepted: count("accepted"), lost: count("lost"), failed, isDone };
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
      error: failure.code === "internal_error" ? kind(error) : undefined,
      ms: Math.round(performance.now() - begun),
    });
    return { failed: failure.code };
  }
  const isOurs = await outbox.finish(delivery, providerMessageId);
  log("info", isOurs ? "delivery_accepted" : "lease_lost", { ...fields, ms: Math.round(performance.now() - begun) });
  return isOurs ? "accepted" : "lost";
}

function channelOf(delivery: Delivery) {
  const name = delivery.channel;
  if (Object.hasOwn(channels, name)) return channels[name as keyof typeof channels];
  throw new DeliveryFailure("unknown_channel", "No such channel is deployed.", { isOperators: true });
}

function failureOf(error: unknown): DeliveryFailure {
  if (error instanceof DeliveryFailure) return error;
  // Where it broke is not known, so neither is whether the message had gone out.
  return new DeliveryFailure("internal_error", "The function failed; its log says why.", {
    mayHaveBeenSent: true,
    isOperators: true,
  });
}
