/** The outbox of messages to caregivers: one method for each SQL function. */
import { Database } from "../_shared/database/client.ts";
import type { Settings } from "../_shared/settings.ts";
import type { Delivery, DeliveryFailure } from "./channel.ts";

/** A row of claim_receipts(). */
export interface ReceiptClaim {
  readonly delivery_id: number;
  readonly call_log_id: string | null;
  readonly channel: string;
  readonly provider_message_id: string;
}

export class Outbox {
  readonly #database: Database;

  constructor(settings: Settings, readonly at?: string) {
    this.#database = new Database(settings);
  }

  async claim(worker: string, leaseSeconds: number): Promise<Delivery | undefined> {
    const [delivery]: Delivery[] = await this.#database.rpc("claim_deliveries", {
      worker,
      count: 1,
      lease_seconds: leaseSeconds,
      at: this.at,
    });
    return delivery;
  }

  /** Returns whether the lease still held. */
  finish(delivery: Delivery, providerMessageId: string | null): Promise<boolean> {
    return this.#database.rpc("finish_delivery", {
      delivery_id: delivery.delivery_id,
      lease_token: delivery.lease_token,
      provider_message_id: providerMessageId,
      at: this.at,
    });
  }

  /** Returns the state of the delivery. */
  fail(delivery: Delivery, failure: DeliveryFailure): Promise<string> {
    return this.#database.rpc("fail_delivery", {
      delivery_id: delivery.delivery_id,
      lease_token: delivery.lease_token,
      code: failure.code,
      message: failure.message,
      is_permanent: failure.isPermanent,
      may_have_been_sent: failure.mayHaveBeenSent,
      at: this.at,
    });
  }

  /** Receipts are not leased: each claim is counted, and the receipt may be due again at once. */
  claimReceipts(count: number): Promise<ReceiptClaim[]> {
    return this.#database.rpc("claim_receipts", { count, at: this.at });
  }

  /** Returns the state of the delivery. */
  finishReceipt(claim: ReceiptClaim, isDelivered: boolean, message: string | null): Promise<string | null> {
    return this.#database.rpc("finish_receipt", {
      delivery_id: claim.delivery_id,
      is_delivered: isDelivered,
      message,
      at: this.at,
    });
  }
}
