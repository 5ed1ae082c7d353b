/** Functions as their callers meet them: over HTTP, on a free port of loopback; and the lines that they log. */
import assert from "node:assert/strict";
import type { Backend } from "./backend.ts";

export const FUNCTIONS_KEY = "the-functions-key";

export type Json = Record<string, unknown>;

export interface Served extends AsyncDisposable {
  /** `http://127.0.0.1:port` */
  readonly url: string;
  /** `127.0.0.1:port` */
  readonly named: string;
}

export function serve(answer: (request: Request) => Response | Promise<Response>): Served {
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, answer);
  const named = `127.0.0.1:${server.addr.port}`;
  return { url: `http://${named}`, named, [Symbol.asyncDispose]: () => server.shutdown() };
}

/** Serves connections byte by byte, for responses that a proper server would not send. */
export function speak(answer: (connection: Deno.Conn) => Promise<void>): Served {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const open = new Set<Deno.Conn>();
  const accepting = (async () => {
    for await (const connection of listener) {
      open.add(connection);
      answer(connection).catch(() => {}).finally(() => {
        open.delete(connection);
        close(connection);
      });
    }
  })();
  const named = `127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
  return {
    url: `http://${named}`,
    named,
    [Symbol.asyncDispose]: async () => {
      listener.close();
      open.forEach(close);
      await accepting;
    },
  };
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It is closed already.
  }
}

export interface Reply {
  readonly status: number;
  // deno-lint-ignore no-explicit-any -- a test asserts what it has
  readonly body: any;
  readonly type: string;
}

/** POST to a URL, with the functions' key unless `init` has other headers. What is not text or bytes is sent as JSON. */
export async function post(url: string, payload: unknown, init: RequestInit = {}): Promise<Reply> {
  const body = typeof payload === "string" || payload instanceof Uint8Array ? payload : JSON.stringify(payload);
  const headers = { authorization: `Bearer ${FUNCTIONS_KEY}` };
  const response = await fetch(url, { method: "POST", headers, body: body as BodyInit, ...init });
  return { status: response.status, body: await response.json(), type: response.headers.get("content-type") ?? "" };
}

/** Serve a function for one POST. */
export async function call(
  handler: (request: Request) => Promise<Response>,
  payload: unknown = {},
  init: RequestInit = {},
): Promise<Reply> {
  await using served = serve(handler);
  return await post(served.url, payload, init);
}

/** Serve a function for one POST that must succeed; returns the body of the response. */
export async function run(
  handler: (request: Request) => Promise<Response>,
  payload: unknown = {},
): Promise<Reply["body"]> {
  const { status, body } = await call(handler, payload);
  assert.equal(status, 200, JSON.stringify(body));
  return body;
}

/** The environment of a function, with what a test adds to it. */
export function environment(project: Backend, named: Record<string, string> = {}): Map<string, string> {
  return new Map(Object.entries({
    SUPABASE_URL: project.apiUrl,
    SUPABASE_SECRET_KEY: project.serviceKey,
    RETROCARE_FUNCTIONS_KEY: FUNCTIONS_KEY,
    ...named,
  }));
}

/** Work that goes on after a response. */
export class Background {
  readonly #works: Promise<unknown>[] = [];
  readonly waitUntil = (work: Promise<unknown>): void => void this.#works.push(work);

  get count(): number {
    return this.#works.length;
  }

  async settled(): Promise<void> {
    await Promise.all(this.#works);
  }
}

/** The lines that functions log from now on, in this file's process. */
export function listenToLines(): string[] {
  const lines: string[] = [];
  console.error = (line: unknown) => void lines.push(String(line));
  return lines;
}

/** Assert that each line is JSON, and that none holds any of the secrets. */
export function assertDiscreet(lines: readonly string[], secrets: readonly string[]): void {
  for (const line of lines) {
    assert.ok(typeof JSON.parse(line).event === "string", line);
    for (const secret of secrets) assert.ok(!line.includes(secret), line);
  }
}
