/** Plays Parley: its API over HTTP, and the webhooks that it would send. */
import { createHmac } from "node:crypto";
import type { FinishedCall, PlayedProvider, Webhook } from "../played_provider.ts";
import { serve, type Served } from "../serving.ts";
import { LARGEST_PAGE, parley, type ParleyCall } from "./provider.ts";

const SIGNING_KEY = "parley-signing-key";
const TOKEN = "parley-api-token";

export class PlayedParley implements PlayedProvider {
  readonly provider = parley;
  readonly endedReasons = { judged: "completed", voicemail: "machine" };
  readonly keySetting = "PARLEY_API_TOKEN";
  readonly secretSettings = ["PARLEY_SIGNING_KEY"];
  readonly requests: string[] = [];
  keepsDeleted = false;
  isBroken = false;
  readonly #calls = new Map<string, FinishedCall | null>(); // null: deleted
  readonly #served: Served = serve((request) => this.#respond(request));

  get settings(): Record<string, string> {
    return {
      PARLEY_API_URL: this.#served.url,
      PARLEY_API_TOKEN: TOKEN,
      PARLEY_SIGNING_KEY: SIGNING_KEY,
      RETROCARE_FETCH_PRIVATE_HOSTS: this.#served.named,
    };
  }

  add(call: FinishedCall): void {
    this.#calls.set(call.id, call);
  }

  has(id: string): boolean {
    return Boolean(this.#calls.get(id));
  }

  webhook(call: FinishedCall, withUrl = false): Webhook {
    const media = Object.keys(call.recordings).map((leg) => ({
      leg: legOf(leg),
      href: `${this.#served.url}/files/${call.id}/${legOf(leg)}`,
    }));
    if (withUrl) this.add(call);
    return this.#signed({ event: "call.finished", call: { ...shown(call), ...(withUrl ? { media } : {}) } });
  }

  otherMessage(): Webhook {
    return this.#signed({ event: "call.ringing", call: { uuid: "ringing" } });
  }

  unreadableReport(): Webhook {
    return this.#signed({ event: "call.finished", call: {} });
  }

  forgedHeaders({ headers, body }: Webhook): Record<string, string>[] {
    const seconds = Math.floor(Date.now() / 1000);
    return [
      {},
      { "parley-signature": `at=${seconds} by=${"0".repeat(64)}` },
      { "parley-signature": String(headers["parley-signature"]).replace(/at=\d+/, `at=${seconds - 9}`) },
      { "parley-signature": sign(body, seconds - 3600) },
      { authorization: `Token ${TOKEN}` },
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#served[Symbol.asyncDispose]();
  }

  #signed(message: unknown): Webhook {
    const body = JSON.stringify(message);
    return { headers: { "parley-signature": sign(body, Math.floor(Date.now() / 1000)) }, body };
  }

  #respond(request: Request): Response {
    const { pathname, searchParams } = new URL(request.url);
    this.requests.push(`${request.method} ${pathname}`);
    const [, file, leg] = /^\/files\/([^/]+)\/(\w+)$/.exec(pathname) ?? [];
    if (file) return audio(this.#calls.get(file), leg);
    if (this.isBroken) return new Response(null, { status: 500 });
    if (request.headers.get("authorization") !== `Token ${TOKEN}`) return new Response(null, { status: 403 });
    if (pathname === "/v2/calls") return Response.json(this.#list(searchParams));
    const [, id = "", wanted] = /^\/v2\/calls\/([^/]+)(?:\/media\/(\w+))?$/.exec(pathname) ?? [];
    const found = this.#calls.get(id);
    if (!found) return new Response(null, { status: found === null ? 410 : 404 });
    if (wanted) return audio(found, wanted);
    if (request.method === "DELETE" && !this.keepsDeleted) this.#calls.set(id, null);
    return Response.json(shown(found), { status: request.method === "DELETE" ? 202 : 200 });
  }

  #list(query: URLSearchParams): { items: ParleyCall[]; more: boolean } {
    const [from, until, size] = ["from", "until", "size"].map((name) => Number(query.get(name)));
    const within = [...this.#calls.values()].filter((call) => call !== null)
      .filter(({ endedAt }) => Date.parse(endedAt) >= from! && Date.parse(endedAt) < until!);
    const most = Math.min(size!, LARGEST_PAGE);
    return { items: within.slice(0, most).map(shown), more: within.length > most };
  }
}

function sign(body: string, seconds: number): string {
  return `at=${seconds} by=${createHmac("sha256", SIGNING_KEY).update(`${seconds}.${body}`).digest("hex")}`;
}

function legOf(channel: string): string {
  return { customer: "callee", stereo: "both" }[channel] ?? "mix";
}

function audio(call: FinishedCall | null | undefined, leg: string | undefined): Response {
  const content = Object.entries(call?.recordings ?? {}).find(([channel]) => legOf(channel) === leg)?.[1];
  return content ? new Response(content as Uint8Array<ArrayBuffer>) : new Response(null, { status: 404 });
}

function shown(call: FinishedCall): ParleyCall {
  const finished = Date.parse(call.endedAt) / 1000;
  return {
    uuid: call.id,
    callee: call.phone,
    phase: call.isTalking ? "talking" : "finished",
    result: call.endedReason,
    times: { answered: finished - 300, finished, changed: finished },
    callee_spoke: call.spoken.map(([from, to]) => ({ from: 1000 * from, to: 1000 * to })),
  };
}
