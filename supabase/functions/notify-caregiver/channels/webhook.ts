/**
 * A signed POST to an address that a caregiver, or who cares for them, has entered.
 *
 * `X-RetroCare-Signature` is the HMAC-SHA256, in hex, of `{X-RetroCare-Timestamp}.{body}` with the receiver's secret; the
 * timestamp is in seconds, of this attempt. `Idempotency-Key` is the same at each attempt: who has seen it, has seen it all.
 */
import { createHmac } from "node:crypto";
import { asked, NoReply } from "../asking.ts";
import { type Channel, DeliveryFailure, setting } from "../channel.ts";

/** The address is gone, or says that there is none. */
const GONE = [404, 410];

/** The secret of one receiver, so that no receiver can sign as we do to another: HMAC-SHA256 of its address, in hex. */
export function receiverSecret(masterSecret: string, address: string): string {
  return createHmac("sha256", masterSecret).update(address).digest("hex");
}

export const webhook: Channel = async (delivery, tools) => {
  const secret = receiverSecret(setting("webhook", "ALERT_WEBHOOK_SECRET", tools), delivery.address);
  const now = new Date();
  const timestamp = String(Math.floor(now.getTime() / 1000));
  const body = JSON.stringify({
    type: "alert",
    alert_id: delivery.alert_id,
    call_log_id: delivery.call_log_id,
    change: delivery.change,
    level: delivery.level,
    message: delivery.message,
    patient_id: delivery.patient_id,
    sent_at: now.toISOString(),
    delivery_id: delivery.delivery_id,
  });
  const question = {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "idempotency-key": delivery.idempotency_key,
      "x-retrocare-timestamp": timestamp,
      "x-retrocare-signature": createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex"),
    },
    body: new TextEncoder().encode(body),
  } as const;
  const status = await asked(delivery.address, question, tools, (answer) => Promise.resolve(answer.status))
    .catch(failed);
  if (status >= 200 && status < 300) return null;
  throw new DeliveryFailure(`webhook_${status}`, `The webhook's host answered ${status}.`, {
    isPermanent: GONE.includes(status),
    mayHaveBeenSent: status >= 500,
  });
};

function failed(error: unknown): never {
  if (!(error instanceof NoReply)) throw error;
  const code = error.isRefused ? "webhook_refused" : "webhook_unreachable";
  throw new DeliveryFailure(code, `The webhook was not told: ${error.message}.`, {
    isPermanent: error.isRefused,
    mayHaveBeenSent: error.isArrived,
  });
}
