/** Functions as their callers meet them: over HTTP, on a free port of loopback; and the lines that they write. */
import assert from "node:assert/strict";
import type { Backend } from "./backend.ts";

export const FUNCTIONS_KEY = "the-functions-key";

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

/** Speaks to each connection by hand: for answers that a proper server would not give. */
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

/** What a function's environment says, and what a test adds to it. */
export function environment(project: Backend, named: Record<string, string> = {}): Map<string, string> {
  return new Map(Object.entries({
    SUPABASE_URL: project.apiUrl,
    SUPABASE_SECRET_KEY: project.serviceKey,
    RETROCARE_FUNCTIONS_KEY: FUNCTIONS_KEY,
    ...named,
  }));
}

/** Work that goes on behind an answer. */
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

/** The lines that functions write from now on, in this file's process. */
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
