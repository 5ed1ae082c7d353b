/**
 * Receipts: what became of messages that were accepted. A text message may be accepted and never arrive.
 *
 * The database counts how often the provider was asked about a message; after the last time the message counts as
 * accepted and nothing more.
 */
import { errorKind } from "../_shared/http/problems.ts";
import { log } from "../_shared/log.ts";
import { type Counts, drain, type Outcome } from "../_shared/queue.ts";
import type { RunOptions } from "../_shared/run_options.ts";
import { DeliveryFailure, type Receipt, type Tools } from "./channel.ts";
import { smsReceipt } from "./channels/sms.ts";
import { Outbox, type ReceiptClaim } from "./outbox.ts";

/** The channels whose provider knows. */
const RECEIPTS: Readonly<Record<string, Receipt>> = { sms: smsReceipt };
const LANES = 4;
const BATCH = 100;

/**
 * Get the receipts that are due. `done` are the messages that arrived; `undelivered` did not, and `receipt_pending` are
 * those of which the provider does not know yet. Raises a Problem if the database does not answer.
 */
export async function collectReceipts(tools: Tools, { at, until }: RunOptions): Promise<Counts> {
  const outbox = new Outbox(tools.settings, at);
  // Claimed together: one by one, an overdue receipt would be claimed up to three times in this run.
  let batch: Promise<ReceiptClaim[]> | undefined;
  const counts = await drain({
    claim: async () => (await (batch ??= outbox.claimReceipts(BATCH))).shift(),
    work: (claim) => readReceipt(claim, outbox, tools),
    until,
    lanes: LANES,
  });
  return { ...counts, isDone: counts.isDone && counts.claimed < BATCH };
}

async function readReceipt(claim: ReceiptClaim, outbox: Outbox, tools: Tools): Promise<Outcome> {
  const fields = { delivery_id: claim.delivery_id, call_log_id: claim.call_log_id, channel: claim.channel };
  const receipt = Object.hasOwn(RECEIPTS, claim.channel) ? RECEIPTS[claim.channel] : undefined;
  if (!receipt) return { failed: "receipt_pending" };
  let received;
  try {
    received = await receipt(claim.provider_message_id, tools);
  } catch (error) {
    if (!(error instanceof DeliveryFailure)) throw error;
    log("warning", "receipt_failed", { ...fields, code: error.code, error: errorKind(error) });
    return { failed: error.code };
  }
  const { outcome, code } = received;
  if (outcome === "pending") return { failed: "receipt_pending" };
  const isDelivered = outcome === "delivered";
  const reason = `The provider could not deliver the message${code ? ` (${code})` : ""}.`;
  await outbox.finishReceipt(claim, isDelivered, isDelivered ? null : reason);
  log(isDelivered ? "info" : "error", `message_${outcome}`, { ...fields, code });
  return isDelivered ? "done" : { failed: "undelivered" };
}
