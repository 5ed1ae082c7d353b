/**
 * Plays Vapi: its API, which redirects callers with its key to signed URLs, and on another port its storage, which serves
 * those URLs until their signatures are removed.
 */
import { serve, type Served } from "./serving.ts";

export const KEY = "vapi-private-key";
export type Kind = "customer" | "stereo" | "mono";

export interface FakeCall {
  /** What GET /call/{id} returns besides the id. */
  call: Record<string, unknown>;
  recordings: Partial<Record<Kind, Uint8Array>>;
}

export class FakeVapi implements AsyncDisposable {
  readonly calls = new Map<string, FakeCall>();
  /** Every request, as `METHOD path` without its query; those to storage begin with `storage`. */
  readonly requests: string[] = [];
  readonly listed: URLSearchParams[] = [];
  /** Authorization headers that reached storage. */
  readonly leaked: string[] = [];
  key = KEY;
  isOldestFirst = false;
  /** The list is sorted by updatedAt; else by createdAt. */
  isSortedByUpdate = false;
  /** DELETE answers 200, and the call stays. */
  keepsDeleted = false;
  /** Signatures that storage accepts. */
  readonly signatures = new Map<string, { content: Uint8Array; type: string }>();
  /** Answers in place of the API where it returns a response. */
  instead: (request: Request) => Response | undefined | Promise<Response | undefined> = () => undefined;
  #signed = 0;
  readonly #api: Served;
  readonly #storage: Served;

  constructor() {
    this.#api = serve((request) => this.#answer(request));
    this.#storage = serve((request) => this.#serve(request));
  }

  get url(): string {
    return this.#api.url;
  }

  /** For RETROCARE_FETCH_PRIVATE_HOSTS. */
  get named(): string {
    return `${this.#api.named},${this.#storage.named}`;
  }

  get settings(): Record<string, string> {
    return { VAPI_API_URL: this.url, VAPI_API_KEY: KEY, RETROCARE_FETCH_PRIVATE_HOSTS: this.named };
  }

  add(id: string, recordings: FakeCall["recordings"] = {}, call: Record<string, unknown> = {}): FakeCall {
    const made = { call: { status: "ended", createdAt: "2026-11-20T09:00:00.000Z", ...call }, recordings };
    this.calls.set(id, made);
    return made;
  }

  /** A signed URL in storage. */
  sign(content: Uint8Array, type = "audio/wav"): string {
    const signature = `secret-${++this.#signed}`;
    this.signatures.set(signature, { content, type });
    return `${this.#storage.url}/recordings/${this.#signed}.wav?X-Amz-Expires=1800&X-Amz-Signature=${signature}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#api[Symbol.asyncDispose]();
    await this.#storage[Symbol.asyncDispose]();
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    this.requests.push(`${request.method} ${pathname}`);
    const other = await this.instead(request);
    if (other) return other;
    if (request.headers.get("authorization") !== `Bearer ${this.key}`) return json(401, { message: "Invalid Key." });
    if (pathname === "/call") return json(200, this.#list(searchParams));
    const [, id = "", kind] = /^\/call\/([^/]+)(?:\/(customer|stereo|mono)-recording)?$/.exec(pathname) ?? [];
    const found = this.calls.get(id);
    if (!found) return json(404, { message: "Not Found" });
    if (request.method === "DELETE") {
      if (!this.keepsDeleted) this.calls.delete(id);
      return json(200, { id });
    }
    if (!kind) return json(200, { id, ...found.call });
    const content = found.recordings[kind as Kind];
    if (!content) return json(404, { message: "No such recording" });
    return new Response(null, { status: 302, headers: { location: this.sign(content) } });
  }

  #list(range: URLSearchParams): unknown[] {
    this.listed.push(range);
    const [from, to] = ["updatedAtGe", "updatedAtLt"].map((name) => Date.parse(range.get(name) ?? ""));
    const updated = (call: Record<string, unknown>) => Date.parse(String(call.updatedAt ?? call.createdAt));
    const sorted = (call: Record<string, unknown>) =>
      this.isSortedByUpdate ? updated(call) : Date.parse(String(call.createdAt));
    const found = [...this.calls].map(([id, { call }]): Record<string, unknown> => ({ id, ...call }))
      .filter((call) => updated(call) >= from! && updated(call) < to!)
      .sort((one, other) => (sorted(other) - sorted(one)) * (this.isOldestFirst ? -1 : 1));
    return found.slice(0, Number(range.get("limit") ?? 100));
  }

  #serve(request: Request): Response {
    const { pathname, searchParams } = new URL(request.url);
    this.requests.push(`storage ${pathname}`);
    const authorization = request.headers.get("authorization");
    if (authorization) this.leaked.push(authorization);
    const found = this.signatures.get(searchParams.get("X-Amz-Signature") ?? "");
    if (!found) return new Response("<Error><Code>AccessDenied</Code></Error>", { status: 403 });
    return new Response(found.content as Uint8Array<ArrayBuffer>, { headers: { "content-type": found.type } });
  }
}

function json(status: number, body: unknown): Response {
  return Response.json(body, { status });
}
