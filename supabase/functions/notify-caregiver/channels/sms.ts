/**
 * A text message through Twilio's REST API.
 *
 * Twilio takes no idempotency key, so where an earlier attempt may have arrived, Twilio is asked first whether it has the
 * message. The list of a number's messages is not narrowed by DateSent: what Twilio has taken and not yet sent has no such date.
 */
import { moment } from "../../_shared/requests.ts";
import { asked, NoReply } from "../asking.ts";
import {
  type Channel,
  type Delivery,
  DeliveryFailure,
  notConfigured,
  type Receipt,
  setting,
  type Tools,
} from "../channel.ts";

/** Twilio's codes for a number that takes no message, now or later: no number, unsubscribed, a landline, a short code. */
const UNREACHABLE_NUMBERS = [21211, 21214, 21217, 21265, 21268, 21610, 21614, 21635];
/** The words will not be shorter next time. */
const TOO_LONG = [21605, 21617];
const TRIAL = "Sent from your Twilio trial account";
const NEVER_SENT = ["failed", "undelivered", "canceled"];
const ARRIVED = ["delivered", "read"];
const PAGE_SIZE = 200;
const MOST_PAGES = 5;
/** By how much Twilio's clock may be behind the database's. */
const SKEW_MILLISECONDS = 5_000;

export const sms: Channel = async (delivery, tools) => {
  const account = accountOf(tools);
  if (delivery.may_have_been_sent) {
    const sid = await find(delivery, account, tools);
    if (sid) return sid;
  }
  const form = new URLSearchParams({ To: delivery.address, Body: delivery.message, ...account.sender });
  const reply = await ask(account.messages, "POST", account, tools, form);
  if (reply.status === 201) return textOf(jsonOf(reply).sid);
  throw refusal(reply, true);
};

/** Ask Twilio for the message's status. Carriers that say nothing leave it at `sent`: pending, for ever. */
export const smsReceipt: Receipt = async (providerMessageId, tools) => {
  const account = accountOf(tools);
  const target = account.messages.replace(/\.json$/, `/${encodeURIComponent(providerMessageId)}.json`);
  const reply = await ask(target, "GET", account, tools);
  if (reply.status !== 200) throw refusal(reply, false);
  const { status, error_code: code } = jsonOf(reply);
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

/** Find the message among those that Twilio has taken for this number since it was written; give its id. */
async function find(delivery: Delivery, account: Account, tools: Tools): Promise<string | null> {
  const written = moment(delivery.created_at);
  if (!written) throw new Error("created_at is no moment");
  const since = Date.parse(written) - SKEW_MILLISECONDS;
  const takenAt = (message: Listed) => Date.parse(String(message.date_created));
  let target: unknown = `${account.messages}?${new URLSearchParams({
    To: delivery.address,
    PageSize: `${PAGE_SIZE}`,
  })}`;
  for (let page = 0; page < MOST_PAGES; page++) {
    if (typeof target !== "string" || !target.startsWith(account.messages)) return null;
    const reply = await ask(target, "GET", account, tools);
    if (reply.status !== 200) throw refusal(reply, false);
    const { messages, next_page_uri } = jsonOf(reply);
    if (!Array.isArray(messages)) throw new DeliveryFailure("twilio_unreadable", "Twilio's list of messages is none.");
    const found = (messages as Listed[]).find((message) =>
      takenAt(message) >= since &&
      message.to === delivery.address &&
      String(message.direction).startsWith("outbound") &&
      isSame(String(message.body), delivery.message) &&
      !NEVER_SENT.includes(String(message.status))
    );
    if (found) return textOf(found.sid);
    if (messages.length > 0 && messages.every((message) => takenAt(message) < since)) return null;
    target = next_page_uri;
  }
  return null;
}

/** A trial account's messages begin with words of Twilio's own. */
function isSame(taken: string, words: string): boolean {
  return taken.trim() === words.trim() || (taken.startsWith(TRIAL) && taken.trim().endsWith(words.trim()));
}

interface Reply {
  readonly status: number;
  /** Empty where it did not come whole: the status alone says what became of a message. */
  readonly body: string;
}

type Listed = Readonly<Record<string, unknown>>;

async function ask(
  target: string,
  method: "GET" | "POST",
  account: Account,
  tools: Tools,
  form?: URLSearchParams,
): Promise<Reply> {
  const headers = {
    authorization: account.authorization,
    ...(form ? { "content-type": "application/x-www-form-urlencoded" } : {}),
  };
  const question = { method, headers, ...(form ? { body: new TextEncoder().encode(form.toString()) } : {}) };
  try {
    return await asked(account.api + target, question, tools, async (answer) => ({
      status: answer.status,
      body: new TextDecoder().decode(await answer.body().catch(() => new Uint8Array())),
    }));
  } catch (error) {
    if (!(error instanceof NoReply)) throw error;
    if (error.isRefused) throw notConfigured("sms", `TWILIO_API_URL may not be asked: ${error.message}.`);
    throw new DeliveryFailure("twilio_unreachable", `Twilio was not reached: ${error.message}.`, {
      mayHaveBeenSent: form !== undefined && error.isArrived,
    });
  }
}

/** What Twilio says in words may quote the number: its status and its code say enough. */
function refusal(reply: Reply, isSending: boolean): DeliveryFailure {
  const { status } = reply;
  const known = jsonOf(reply).code;
  const number = typeof known === "number" ? known : undefined;
  const says = `Twilio answered ${status}${number ? ` (${number})` : ""}.`;
  if (status === 401 || status === 403) return new DeliveryFailure("twilio_unauthorised", says, { isOperators: true });
  if (status === 429) return new DeliveryFailure("twilio_busy", says);
  return new DeliveryFailure(`twilio_${number ?? status}`, says, {
    isPermanent: isSending && status === 400 && [...UNREACHABLE_NUMBERS, ...TOO_LONG].includes(number ?? 0),
    // Only a plain refusal says that it was not taken.
    mayHaveBeenSent: isSending && (status < 400 || status >= 500),
    isOperators: status >= 400 && status < 500,
  });
}

function jsonOf(reply: Reply): Listed {
  try {
    const found: unknown = JSON.parse(reply.body);
    return typeof found === "object" && found !== null ? found as Listed : {};
  } catch {
    return {};
  }
}

function textOf(value: unknown): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
