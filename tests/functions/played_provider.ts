/** A phone provider that is played, as providers.test.ts asks the same of each; and Vapi as one of them. */
import { createHmac } from "node:crypto";
import type { Provider, SourceChannel } from "../../supabase/functions/providers/provider.ts";
import { vapi } from "../../supabase/functions/providers/vapi/provider.ts";
import { FakeVapi, KEY } from "./vapi.ts";

export interface FinishedCall {
  readonly id: string;
  readonly phone: string;
  readonly endedReason: string;
  readonly endedAt: string;
  /** When the patient spoke: [start, end] in seconds. */
  readonly spoken: readonly (readonly [number, number])[];
  readonly recordings: Partial<Record<SourceChannel, Uint8Array>>;
  /** It has not finished after all. */
  readonly isTalking?: boolean;
}

export interface Webhook {
  readonly headers: Record<string, string>;
  readonly body: string;
}

export interface PlayedProvider extends AsyncDisposable {
  readonly provider: Provider;
  /** What its calls end with: rows of care.ended_reasons. */
  readonly endedReasons: { readonly judged: string; readonly voicemail: string };
  readonly settings: Record<string, string>;
  /** The setting of its API's key. */
  readonly keySetting: string;
  /** The settings without which nobody is authenticated. */
  readonly secretSettings: readonly string[];
  /** Every request that its API and its storage received, as `METHOD path`. */
  readonly requests: readonly string[];
  /** It answers that a call is deleted, and keeps it. */
  keepsDeleted: boolean;
  /** Its API answers 500. */
  isBroken: boolean;
  /** Let its API have a call. */
  add(call: FinishedCall): void;
  has(id: string): boolean;
  /** The report of a call; with the URL of its recording, which is then to be had. */
  webhook(call: FinishedCall, withUrl?: boolean): Webhook;
  otherMessage(): Webhook;
  /** A report that names no call. */
  unreadableReport(): Webhook;
  /** Headers of senders that are not the provider. */
  forgedHeaders(genuine: Webhook): Record<string, string>[];
}

const SECRET = "vapi-webhook-secret";
const HMAC_SECRET = "vapi-signing-secret";
const KINDS = { customer: "customer", stereo: "stereo", mixed: "mono" } as const;

export class PlayedVapi implements PlayedProvider {
  readonly provider = vapi;
  readonly endedReasons = { judged: "customer-ended-call", voicemail: "voicemail" };
  readonly keySetting = "VAPI_API_KEY";
  readonly secretSettings = ["VAPI_WEBHOOK_SECRET", "VAPI_HMAC_SECRET"];
  readonly #api = new FakeVapi();

  get settings(): Record<string, string> {
    return { ...this.#api.settings, VAPI_WEBHOOK_SECRET: SECRET, VAPI_HMAC_SECRET: HMAC_SECRET };
  }

  get requests(): readonly string[] {
    return this.#api.requests;
  }

  get keepsDeleted(): boolean {
    return this.#api.keepsDeleted;
  }

  set keepsDeleted(isSo: boolean) {
    this.#api.keepsDeleted = isSo;
  }

  set isBroken(isSo: boolean) {
    this.#api.instead = () => isSo ? new Response(null, { status: 500 }) : undefined;
  }

  add(call: FinishedCall): void {
    const recordings = Object.entries(call.recordings).map(([channel, content]) =>
      [KINDS[channel as SourceChannel], content] as const
    );
    this.#api.add(call.id, Object.fromEntries(recordings), {
      ...shown(call),
      status: call.isTalking ? "in-progress" : "ended",
      createdAt: call.endedAt,
      customer: { number: call.phone },
      artifact: { messages: messagesOf(call) },
    });
  }

  has(id: string): boolean {
    return this.#api.calls.has(id);
  }

  webhook(call: FinishedCall, withUrl = false): Webhook {
    const url = withUrl ? { presignedCustomerUrl: this.#api.sign(call.recordings.customer!) } : {};
    return authenticated({
      type: "end-of-call-report",
      ...shown(call),
      call: { id: call.id },
      customer: { number: call.phone },
      artifact: { messages: messagesOf(call), ...url },
    });
  }

  otherMessage(): Webhook {
    return authenticated({ type: "status-update", call: { id: "ringing" } });
  }

  unreadableReport(): Webhook {
    return authenticated({ type: "end-of-call-report" });
  }

  forgedHeaders({ body }: Webhook): Record<string, string>[] {
    const now = Date.now();
    const signed = (at: number, secret: string) => ({
      "x-timestamp": String(at),
      "x-signature": createHmac("sha256", secret).update(`${at}.${body}`).digest("hex"),
    });
    return [
      {},
      { authorization: "Bearer wrong" },
      { authorization: `Bearer ${KEY}` },
      signed(now, "another"),
      { ...signed(now, HMAC_SECRET), "x-timestamp": String(now - 9) },
      signed(now - 3600_000, HMAC_SECRET),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#api[Symbol.asyncDispose]();
  }
}

function authenticated(message: unknown): Webhook {
  return { headers: { "x-vapi-secret": SECRET }, body: JSON.stringify({ message }) };
}

function shown({ endedAt, endedReason }: FinishedCall): Record<string, unknown> {
  return { startedAt: new Date(Date.parse(endedAt) - 300_000).toISOString(), endedAt, endedReason };
}

function messagesOf({ spoken }: FinishedCall): Record<string, unknown>[] {
  return spoken.map(([from, to]) => ({ role: "user", secondsFromStart: from, time: 1000 * from, endTime: 1000 * to }));
}
