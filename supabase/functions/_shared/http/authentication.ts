/** Authenticating callers: a shared secret as bearer, or a signature over the raw body; compared in constant time. */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { type Environment, required } from "../settings.ts";
import { Problem } from "./problems.ts";

/** How far a signed timestamp may be from our clock; an older one may be a replay. */
const WINDOW_MILLISECONDS = 5 * 60_000;

/** Compare two texts in a time that reveals neither of them, not even a length. */
export function isSame(given: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

/** Admit a caller with RETROCARE_FUNCTIONS_KEY as bearer. Raises a Problem: 401, or 500 if no key is set. */
export function requireFunctionsKey(request: Request, environment: Environment): void {
  const expected = required(environment, "RETROCARE_FUNCTIONS_KEY");
  if (!isSame(bearer(request.headers) ?? "", expected)) throw unauthorized("The key is missing or wrong.");
}

export function bearer(headers: Headers): string | undefined {
  return /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
}

export interface SignedBody {
  /** Of the signature, in seconds or milliseconds since 1970, as text. */
  readonly timestamp: string;
  /** The HMAC-SHA256 of `{timestamp}.{body}` in hexadecimal. */
  readonly signature: string;
  readonly body: Uint8Array;
}

/** Verify a signature that was made within five minutes of `now` (milliseconds). Raises a Problem (401). */
export function requireSignature(signed: SignedBody, secret: string, now: number): void {
  const { timestamp, signature, body } = signed;
  const expected = createHmac("sha256", secret).update(`${timestamp}.`).update(body).digest("hex");
  if (!isSame(signature.toLowerCase(), expected)) throw unauthorized("The signature is wrong.");
  if (!/^\d{9,14}$/.test(timestamp)) throw unauthorized("The timestamp is not a number of seconds or milliseconds.");
  const signedAt = Number(timestamp) * (timestamp.length > 11 ? 1 : 1000);
  if (Math.abs(now - signedAt) > WINDOW_MILLISECONDS) throw unauthorized("The timestamp is too far from now.");
}

export function unauthorized(detail: string): Problem {
  return new Problem(401, "unauthorized", detail, undefined, { "www-authenticate": "Bearer" });
}
