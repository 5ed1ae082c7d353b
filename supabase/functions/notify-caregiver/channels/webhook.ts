/**
 * A signed POST to a URL that was entered for a caregiver.
 *
 * `X-RetroCare-Signature` is the HMAC-SHA256, in hex, of `{X-RetroCare-Timestamp}.{body}` with the receiver's secret;
 * the timestamp is in seconds, of this attempt. `Idempotency-Key` is the same at each attempt, so that a receiver can
 * recognise a message that it has already.
 */
import { createHmac } from "node:crypto";
import { type Channel, DeliveryFailure, setting } from "../channel.ts";
import { NoResponse, requestProvider } from "../provider_request.ts";

/** Statuses that say that the URL is gone for good. */
const GONE = [404, 410];

/** A receiver's own secret, the HMAC-SHA256 of its URL in hex: with it, no receiver can forge messages to another. */
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
  const request = {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "idempotency-key": delivery.idempotency_key,
      "x-retrocare-timestamp": timestamp,
      "x-retrocare-signature": createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex"),
    },
    body: new TextEncoder().encode(body),
  } as const;
  const status = await requestProvider(delivery.address, request, tools, ({ status }) => Promise.resolve(status))
    .catch(failed);
  if (status >= 200 && status < 300) return null;
  throw new DeliveryFailure(
    `webhook_${status}`,
    `The webhook's host answered ${status}.`,
    { isPermanent: GONE.includes(status), mayHaveBeenSent: status >= 500 },
  );
};

function failed(error: unknown): never {
  if (!(error instanceof NoResponse)) throw error;
  const code = error.isRefused ? "webhook_refused" : "webhook_unreachable";
  throw new DeliveryFailure(
    code,
    `The webhook was not reached: ${error.message}.`,
    { isPermanent: error.isRefused, mayHaveBeenSent: error.mayHaveArrived },
  );
}
