/** What a channel is: a function that hands one message to a provider; and how that fails. */
import type { Network } from "../_shared/http/pinned_client.ts";
import type { Environment, Settings } from "../_shared/settings.ts";

/** A row of claim_deliveries(). */
export interface Delivery {
  readonly delivery_id: number;
  /** The same at every attempt. */
  readonly idempotency_key: string;
  readonly lease_token: string;
  readonly channel: string;
  readonly address: string;
  /** The finished words. */
  readonly message: string;
  readonly level: "warning" | "emergency" | "critical";
  readonly change: string;
  readonly alert_id: string;
  /** The call that the alert comes from; null: none. */
  readonly call_log_id: string | null;
  readonly patient_id: string;
  readonly attempts: number;
  /** It is not known how an earlier attempt ended. */
  readonly may_have_been_sent: boolean;
  readonly created_at: string;
}

export interface Tools {
  readonly environment: Environment;
  readonly settings: Settings;
  readonly network: Network;
  /** How long one request to a provider may take. */
  readonly seconds: number;
}

/** Hand a message over; returns the provider's id of it, or null if it has none. Raises a DeliveryFailure. */
export type Channel = (delivery: Delivery, tools: Tools) => Promise<string | null>;

/** What became of a message, by the provider's id; pending: it is not known yet. Raises a DeliveryFailure. */
export type Receipt = (providerMessageId: string, tools: Tools) => Promise<Received>;

export interface Received {
  readonly outcome: "delivered" | "undelivered" | "pending";
  /** The provider's code, if it gave one. */
  readonly code?: string;
}

export interface FailureDetails {
  /** Another attempt would fail, too. */
  readonly isPermanent?: boolean;
  /** The provider may have accepted it nevertheless. */
  readonly mayHaveBeenSent?: boolean;
  /** Only the operator can mend it. */
  readonly isOperators?: boolean;
}

/** `code` is stable; the message is our own: no phone number, name or address, and nothing that the provider wrote. */
export class DeliveryFailure extends Error {
  readonly isPermanent: boolean;
  readonly mayHaveBeenSent: boolean;
  readonly isOperators: boolean;

  constructor(readonly code: string, message: string, details: FailureDetails = {}) {
    super(message);
    this.name = "DeliveryFailure";
    this.isPermanent = details.isPermanent ?? false;
    this.mayHaveBeenSent = details.mayHaveBeenSent ?? false;
    this.isOperators = details.isOperators ?? false;
  }
}

/** A channel's setting. Raises a DeliveryFailure that names it, and that is retried: it may be set meanwhile. */
export function setting(channel: string, name: string, tools: Tools): string {
  const value = tools.environment.get(name);
  if (!value) throw notConfigured(channel, `${name} is not set.`);
  return value;
}

export function notConfigured(channel: string, detail: string): DeliveryFailure {
  return new DeliveryFailure(`${channel}_not_configured`, detail, { isOperators: true });
}
