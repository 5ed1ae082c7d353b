/** Reading requests: the method, a body of limited size, JSON, and values within it. */
import { Problem } from "./problems.ts";

const BODY_MILLISECONDS = 10_000;

export function requirePost(request: Request): void {
  if (request.method !== "POST") {
    throw new Problem(405, "method_not_allowed", "This function takes POST only.", undefined, { allow: "POST" });
  }
}

/** Read the raw body, up to a limit. Raises a Problem: 400 (cut off), 408 (too slow) or 413 (too large). */
export async function readBody(request: Request, maximumBytes: number): Promise<Uint8Array> {
  const tooLarge = new Problem(413, "too_large", `The body is larger than ${maximumBytes} bytes.`);
  if (Number(request.headers.get("content-length") ?? 0) > maximumBytes) throw tooLarge;
  const reader = request.body?.getReader();
  if (!reader) return new Uint8Array();
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    reader.cancel().catch(() => {});
  }, BODY_MILLISECONDS);
  const chunks: Uint8Array[] = [];
  let length = 0;
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      length += next.value.byteLength;
      if (length > maximumBytes) throw tooLarge;
      chunks.push(next.value);
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    if (error instanceof Problem) throw error;
    throw new Problem(400, "truncated_body", "The body ended before its announced length.");
  } finally {
    clearTimeout(timer);
  }
  if (isLate) throw new Problem(408, "too_slow", "The body did not come in time.");
  return joined(chunks, length);
}

/** Parse JSON in UTF-8. Raises a Problem (400, `not_json`). */
export function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new Problem(400, "not_json", "The body is not JSON in UTF-8.");
  }
}

export function joined(chunks: readonly Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.byteLength;
  }
  return whole;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function isUuid(value: unknown): value is string {
  return typeof value === "string" && UUID.test(value);
}

/**
 * A time as an ISO string, from ISO text or epoch milliseconds; null for anything else, and outside of this century.
 */
export function moment(value: unknown): string | null {
  const isMoment = (typeof value === "string" && /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}/.test(value)) ||
    (typeof value === "number" && Number.isFinite(value));
  const found = isMoment ? new Date(iso(value)) : new Date(NaN);
  return found.getTime() > Date.UTC(2000) && found.getTime() < Date.UTC(2100) ? found.toISOString() : null;
}

/** PostgreSQL writes `2026-01-31 09:30:00+00`, which Date does not take. */
function iso(value: unknown): string | number {
  return typeof value === "string" ? value.replace(" ", "T").replace(/([+-]\d{2})$/, "$1:00") : value as number;
}
