/**
 * Speaks Twilio's API for messages: takes them, lists them newest first and by the page, and refuses as Twilio refuses.
 *
 * What it does with the next messages to a number is scripted. To a caller, "take and close" looks like "close".
 */
import { Buffer } from "node:buffer";
import { type Served, speak } from "./serving.ts";

export const ACCOUNT = "ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
export const TOKEN = "the-auth-token-of-a-test";
export const FROM = "+15005550006";

export type Deed =
  | "take"
  | "hang"
  | "close"
  | "take and hang"
  | "take and close"
  | { readonly status: number; readonly code?: number; readonly headers?: Record<string, string> };

export interface Message {
  readonly sid: string;
  readonly to: string;
  readonly body: string;
  readonly status: string;
  readonly direction: string;
  readonly date_created: string;
  /** Null until it has left for its carrier. */
  readonly date_sent: string | null;
  readonly [more: string]: unknown;
}

interface TwilioRequest {
  readonly method: string;
  readonly target: string;
  readonly form: URLSearchParams;
}

export class FakeTwilio implements AsyncDisposable {
  /** What it has taken, oldest first. */
  readonly messages: Message[] = [];
  readonly requests: TwilioRequest[] = [];
  /** What is done with messages that are not scripted. */
  unscripted: () => Deed = () => "take";
  /** What is done with every request for a list. */
  listing: Deed = "take";
  /** What is done with every request for one message. */
  receipt: Deed = "take";
  /** The next page that every list names. */
  nextPage: string | undefined;
  /** Called before a message is answered. */
  meanwhile: () => Promise<void> = () => Promise.resolve();
  readonly #deeds = new Map<string, Deed[]>();
  readonly #served: Served = speak((connection) => this.#answer(connection));
  #count = 0;

  get settings(): Record<string, string> {
    return {
      TWILIO_API_URL: this.#served.url,
      TWILIO_ACCOUNT_SID: ACCOUNT,
      TWILIO_AUTH_TOKEN: TOKEN,
      TWILIO_FROM_NUMBER: FROM,
      RETROCARE_FETCH_PRIVATE_HOSTS: this.#served.named,
    };
  }

  /** Do this with the next messages to a number, one after the other; then take them. */
  script(to: string, ...deeds: Deed[]): void {
    this.#deeds.set(to, deeds);
  }

  /** Add a message that was accepted before. */
  take(to: string, body: string, named: Partial<Message> = {}): Message {
    const message = {
      sid: `SM${String(++this.#count).padStart(32, "0")}`,
      account_sid: ACCOUNT,
      to,
      from: FROM,
      body,
      status: "queued",
      direction: "outbound-api",
      date_created: written(new Date()),
      date_sent: null,
      error_code: null,
      ...named,
    };
    this.messages.push(message);
    return message;
  }

  /** Set the status of the message that was accepted last. */
  report(status: string, errorCode: number | null = null): void {
    const last = this.messages.pop()!;
    this.messages.push({ ...last, status, error_code: errorCode });
  }

  count(method: string): number {
    return this.requests.filter((one) => one.method === method).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#served[Symbol.asyncDispose]();
  }

  async #answer(connection: Deno.Conn): Promise<void> {
    const { request, authorization } = await read(connection);
    this.requests.push(request);
    if (authorization !== `Basic ${btoa(`${ACCOUNT}:${TOKEN}`)}`) return await refuse(connection, 401, 20003);
    const url = new URL(request.target, "http://twilio");
    const [, sid] = /\/Messages\/([^/]+)\.json$/.exec(url.pathname) ?? [];
    if (sid !== undefined) {
      const found = this.messages.find((message) => message.sid === sid);
      if (typeof this.receipt === "object") return await refuse(connection, this.receipt.status, this.receipt.code);
      if (this.receipt !== "take") return;
      return found ? await write(connection, 200, found) : await refuse(connection, 404, 20404);
    }
    if (url.pathname !== `/2010-04-01/Accounts/${ACCOUNT}/Messages.json`) return await refuse(connection, 404, 20404);
    const isSending = request.method === "POST";
    const deed = isSending ? this.#deeds.get(request.form.get("To") ?? "")?.shift() ?? this.unscripted() : this.listing;
    if (isSending) await this.meanwhile();
    if (typeof deed === "object") return await refuse(connection, deed.status, deed.code, deed.headers);
    const isTaking = deed.startsWith("take");
    const answer = isSending
      ? isTaking ? this.take(request.form.get("To") ?? "", request.form.get("Body") ?? "") : {}
      : this.#listed(url);
    if (deed.endsWith("hang")) return void await connection.read(new Uint8Array(1));
    if (deed.endsWith("close")) return;
    await write(connection, isSending ? 201 : 200, answer);
  }

  #listed(url: URL): Record<string, unknown> {
    const query = url.searchParams;
    const from = query.get("DateSent>");
    const found = this.messages.toReversed().filter((message) =>
      (!query.has("To") || message.to === query.get("To")) &&
      (!from || (message.date_sent !== null && Date.parse(message.date_sent) >= Date.parse(from)))
    );
    const size = Number(query.get("PageSize") ?? 50), page = Number(query.get("Page") ?? 0);
    const next = new URLSearchParams(query);
    next.set("Page", String(page + 1));
    return {
      messages: found.slice(page * size, (page + 1) * size),
      page,
      page_size: size,
      next_page_uri: this.nextPage ?? (found.length > (page + 1) * size ? `${url.pathname}?${next}` : null),
    };
  }
}

/** A time as Twilio writes it: RFC 2822, to the second. */
export function written(moment: Date): string {
  return moment.toUTCString().replace("GMT", "+0000");
}

async function read(connection: Deno.Conn): Promise<{ request: TwilioRequest; authorization: string | undefined }> {
  let bytes = Buffer.alloc(0);
  const more = async () => {
    const chunk = new Uint8Array(65_536);
    const length = await connection.read(chunk);
    if (length === null) throw new Error("cut off");
    bytes = Buffer.concat([bytes, chunk.subarray(0, length)]);
  };
  while (!bytes.includes("\r\n\r\n")) await more();
  const end = bytes.indexOf("\r\n\r\n");
  const [first = "", ...lines] = bytes.subarray(0, end).toString().split("\r\n");
  const headers = new Map(lines.map((line) => [line.split(":")[0]!.toLowerCase(), line.replace(/^[^:]*: */, "")]));
  while (bytes.length < end + 4 + Number(headers.get("content-length") ?? 0)) await more();
  const [method = "", target = ""] = first.split(" ");
  const form = new URLSearchParams(bytes.subarray(end + 4).toString());
  return { request: { method, target, form }, authorization: headers.get("authorization") };
}

/** Twilio's refusals quote what they refuse. */
function refuse(connection: Deno.Conn, status: number, code?: number, headers = {}): Promise<void> {
  const refusal = { status, message: "The number +351910000001 cannot be reached", ...(code ? { code } : {}) };
  return write(connection, status, refusal, headers);
}

async function write(
  connection: Deno.Conn,
  status: number,
  answer: unknown,
  headers: Record<string, string> = {},
): Promise<void> {
  const body = Buffer.from(JSON.stringify(answer));
  const named = { "Content-Type": "application/json", "Content-Length": String(body.length), ...headers };
  const lines = Object.entries(named).map(([name, value]) => `${name}: ${value}\r\n`).join("");
  await connection.write(Buffer.concat([Buffer.from(`HTTP/1.1 ${status} Said\r\n${lines}\r\n`), body]));
}
