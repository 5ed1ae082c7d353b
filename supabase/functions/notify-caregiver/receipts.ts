/**
 * Asking what became of messages that were accepted: a text message may be accepted and never arrive.
 *
 * The database counts the questions; one that fails is followed by the next, and after the last the message counts as
 * accepted and nothing more.
 */
import { log } from "../_shared/events.ts";
import { kind } from "../_shared/problems.ts";
import { DeliveryFailure, type Receipt, type Tools } from "./channel.ts";
import { smsReceipt } from "./channels/sms.ts";
import { Outbox, type ReceiptClaim } from "./outbox.ts";

/** The channels whose provider can say it. */
const RECEIPTS: Readonly<Record<string, Receipt>> = { sms: smsReceipt };
const LANES = 4;
const BATCH = 100;

export interface Receipts {
  readonly asked: number;
  readonly delivered: number;
  readonly undelivered: number;
}

/** Ask for the receipts that are due, until a moment of performance.now(). Raises a Problem where the database does not answer. */
export async function collectReceipts(tools: Tools, until: number, at?: string): Promise<Receipts> {
  const outbox = new Outbox(tools.settings, at);
  const claims = performance.now() < until ? await outbox.claimReceipts(BATCH) : [];
  const outcomes: string[] = [];
  const lane = async () => {
    for (let claim = claims.shift(); claim && performance.now() < until; claim = claims.shift()) {
      outcomes.push(await settle(claim, outbox, tools));
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  const count = (wanted: string) => outcomes.filter((outcome) => outcome === wanted).length;
  return { asked: outcomes.length, delivered: count("delivered"), undelivered: count("undelivered") };
}

async function settle(claim: ReceiptClaim, outbox: Outbox, tools: Tools): Promise<string> {
  const fields = { delivery_id: claim.delivery_id, call_log_id: claim.call_log_id, channel: claim.channel };
  const receipt = Object.hasOwn(RECEIPTS, claim.channel) ? RECEIPTS[claim.channel] : undefined;
  if (!receipt) return "pending";
  try {
    const { outcome, code } = await receipt(claim.provider_message_id, tools);
    if (outcome === "pending") return outcome;
    const why = `The provider could not deliver the message${code ? ` (${code})` : ""}.`;
    await outbox.finishReceipt(claim, outcome === "delivered", outcome === "delivered" ? null : why);
    log(outcome === "delivered" ? "info" : "error", `message_${outcome}`, { ...fields, code });
    return outcome;
  } catch (error) {
    if (!(error instanceof DeliveryFailure)) throw error;
    log("warning", "receipt_failed", { ...fields, code: error.code, error: kind(error) });
    return "pending";
  }
}
