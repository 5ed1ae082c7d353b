/**
 * A text message through Twilio's REST API.
 *
 * Twilio takes no idempotency key: if an earlier attempt may have arrived, the message is first looked up among those
 * that Twilio has accepted for the number. That list is not filtered by DateSent, which a message lacks until it is
 * sent.
 */
import { moment } from "../../_shared/http/requests.ts";
import {
  type Channel,
  type Delivery,
  DeliveryFailure,
  notConfigured,
  type Receipt,
  setting,
  type Tools,
} from "../channel.ts";
import { NoResponse, requestProvider } from "../provider_request.ts";

/** Twilio's codes for numbers that never take a message: invalid, unsubscribed, a landline, a short code. */
const UNREACHABLE_NUMBERS = [21211, 21214, 21217, 21265, 21268, 21610, 21614, 21635];
/** Twilio's codes for a message that is too long. */
const TOO_LONG = [21605, 21617];
const TRIAL = "Sent from your Twilio trial account";
const NEVER_SENT = ["failed", "undelivered", "canceled"];
const ARRIVED = ["delivered", "read"];
const PAGE_SIZE = 200;
const MOST_PAGES = 5;
/** How far Twilio's clock may be behind the database's. */
const SKEW_MILLISECONDS = 5_000;

export const sms: Channel = async (delivery, tools) => {
  const account = accountOf(tools);
  if (delivery.may_have_been_sent) {
    const sid = await find(delivery, account, tools);
    if (sid) return sid;
  }
  const form = new URLSearchParams({ To: delivery.address, Body: delivery.message, ...account.sender });
  const response = await call(account.messages, "POST", account, tools, form);
  if (response.status === 201) return textOf(jsonOf(response).sid);
  throw refusal(response, true);
};

/** A carrier that gives no receipts leaves the status at `sent`: pending for ever. */
export const smsReceipt: Receipt = async (providerMessageId, tools) => {
  const account = accountOf(tools);
  const target = account.messages.replace(/\.json$/, `/${encodeURIComponent(providerMessageId)}.json`);
  const response = await call(target, "GET", account, tools);
  if (response.status !== 200) throw refusal(response, false);
  const { status, error_code: code } = jsonOf(response);
  if (ARRIVED.includes(String(status))) return { outcome: "delivered" };
  if (!NEVER_SENT.includes(String(status))) return { outcome: "pending" };
  return { outcome: "undelivered", ...(typeof code === "number" ? { code: String(code) } : {}) };
};

interface Account {
  readonly api: string;
  readonly messages: string;
  readonly authorization: string;
  readonly sender: { readonly MessagingServiceSid: string } | { readonly From: string };
}

function accountOf(tools: Tools): Account {
  const sid = setting("sms", "TWILIO_ACCOUNT_SID", tools);
  const token = setting("sms", "TWILIO_AUTH_TOKEN", tools);
  const service = tools.environment.get("TWILIO_MESSAGING_SERVICE_SID");
  return {
    api: (tools.environment.get("TWILIO_API_URL") || "https://api.twilio.com").replace(/\/+$/, ""),
    messages: `/2010-04-01/Accounts/${encodeURIComponent(sid)}/Messages.json`,
    authorization: `Basic ${btoa(`${sid}:${token}`)}`,
    sender: service ? { MessagingServiceSid: service } : { From: setting("sms", "TWILIO_FROM_NUMBER", tools) },
  };
}

/** Find the message among those that Twilio has accepted for the number since it was written; returns its id. */
async function find(delivery: Delivery, account: Account, tools: Tools): Promise<string | null> {
  const written = moment(delivery.created_at);
  if (!written) throw new Error("created_at is not a time");
  const since = Date.parse(written) - SKEW_MILLISECONDS;
  const acceptedAt = (message: Listed) => Date.parse(String(message.date_created));
  let target: unknown = `${account.messages}?${new URLSearchParams({
    To: delivery.address,
    PageSize: `${PAGE_SIZE}`,
  })}`;
  for (let page = 0; page < MOST_PAGES; page++) {
    if (typeof target !== "string" || !target.startsWith(account.messages)) return null;
    const response = await call(target, "GET", account, tools);
    if (response.status !== 200) throw refusal(response, false);
    const { messages, next_page_uri } = jsonOf(response);
    if (!Array.isArray(messages)) {
      throw new DeliveryFailure("twilio_unreadable", "Twilio's answer is not a list of messages.");
    }
    const found = (messages as Listed[]).find((message) =>
      acceptedAt(message) >= since &&
      message.to === delivery.address &&
      String(message.direction).startsWith("outbound") &&
      isSame(String(message.body), delivery.message) &&
      !NEVER_SENT.includes(String(message.status))
    );
    if (found) return textOf(found.sid);
    if (messages.length > 0 && messages.every((message) => acceptedAt(message) < since)) return null;
    target = next_page_uri;
  }
  return null;
}

/** Twilio puts words of its own before the messages of a trial account. */
function isSame(accepted: string, message: string): boolean {
  return accepted.trim() === message.trim() || (accepted.startsWith(TRIAL) && accepted.trim().endsWith(message.trim()));
}

interface TwilioResponse {
  readonly status: number;
  /** Empty if it was cut off: the status alone says whether the message was accepted. */
  readonly body: string;
}

type Listed = Readonly<Record<string, unknown>>;

async function call(
  target: string,
  method: "GET" | "POST",
  account: Account,
  tools: Tools,
  form?: URLSearchParams,
): Promise<TwilioResponse> {
  const headers = {
    authorization: account.authorization,
    ...(form ? { "content-type": "application/x-www-form-urlencoded" } : {}),
  };
  const request = { method, headers, ...(form ? { body: new TextEncoder().encode(form.toString()) } : {}) };
  try {
    return await requestProvider(account.api + target, request, tools, async (response) => ({
      status: response.status,
      body: new TextDecoder().decode(await response.body().catch(() => new Uint8Array())),
    }));
  } catch (error) {
    if (!(error instanceof NoResponse)) throw error;
    if (error.isRefused) throw notConfigured("sms", `TWILIO_API_URL is not allowed: ${error.message}.`);
    throw new DeliveryFailure("twilio_unreachable", `Twilio was not reached: ${error.message}.`, {
      mayHaveBeenSent: form !== undefined && error.mayHaveArrived,
    });
  }
}

/** Twilio's own words may quote the phone number, so that only its status and code are kept. */
function refusal(response: TwilioResponse, isSending: boolean): DeliveryFailure {
  const { status } = response;
  const known = jsonOf(response).code;
  const number = typeof known === "number" ? known : undefined;
  const message = `Twilio answered ${status}${number ? ` (${number})` : ""}.`;
  if (status === 401 || status === 403) {
    return new DeliveryFailure("twilio_unauthorised", message, { isOperators: true });
  }
  if (status === 429) return new DeliveryFailure("twilio_busy", message);
  return new DeliveryFailure(`twilio_${number ?? status}`, message, {
    isPermanent: isSending && status === 400 && [...UNREACHABLE_NUMBERS, ...TOO_LONG].includes(number ?? 0),
    // Only a 4xx says that the message was not accepted.
    mayHaveBeenSent: isSending && (status < 400 || status >= 500),
    isOperators: status >= 400 && status < 500,
  });
}

function jsonOf(response: TwilioResponse): Listed {
  try {
    const found: unknown = JSON.parse(response.body);
    return typeof found === "object" && found !== null ? found as Listed : {};
  } catch {
    return {};
  }
}

function textOf(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
