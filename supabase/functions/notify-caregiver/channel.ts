/** What a channel is: a function that hands one message to a provider, and how that fails. */
import type { Network } from "../_shared/exchange.ts";
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
  /** Of the sign; null: no call is behind it. */
  readonly call_log_id: string | null;
  readonly patient_id: string;
  readonly attempts: number;
  /** How an earlier attempt ended is not known. */
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

/** Hand a message over; give the provider's id of it, or null where it has none. Raises a DeliveryFailure. */
export type Channel = (delivery: Delivery, tools: Tools) => Promise<string | null>;

/** What became of a message, by the provider's id of it; pending: it is not known yet. Raises a DeliveryFailure. */
export type Receipt = (providerMessageId: string, tools: Tools) => Promise<Received>;

export interface Received {
  readonly outcome: "delivered" | "undelivered" | "pending";
  /** The provider's code for it, where it gave one. */
  readonly code?: string;
}

export interface FailureDetails {
  /** Trying again is of no use. */
  readonly isPermanent?: boolean;
  /** The provider may have taken it all the same. */
  readonly mayHaveBeenSent?: boolean;
  /** It stays so until the operator mends it. */
  readonly isOperators?: boolean;
}

/** `code` is stable; the message is ours, and never has a number, a name, a provider's words or an address in it. */
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

/** Give a channel's setting. Raises a DeliveryFailure that names it: it is tried again, as it may be set meanwhile. */
export function setting(channel: string, name: string, tools: Tools): string {
  const value = tools.environment.get(name);
  if (!value) throw notConfigured(channel, `${name} is not set.`);
  return value;
}

export function notConfigured(channel: string, detail: string): DeliveryFailure {
  return new DeliveryFailure(`${channel}_not_configured`, detail, { isOperators: true });
}
