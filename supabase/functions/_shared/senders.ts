/** Who may ask: a secret that is shown, or a signature over the raw body. Compared in constant time. */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { Problem } from "./problems.ts";
import { type Environment, notConfigured, required } from "./settings.ts";

/** How far a signed timestamp may be from our clock: longer ago it may be a replay. */
const WINDOW_MILLISECONDS = 5 * 60_000;

/** Say whether two texts are the same, in a time that tells nothing of either, not even a length. */
export function isSame(shown: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(shown), digest(expected));
}

/** Let a caller pass who shows RETROCARE_FUNCTIONS_KEY as `Authorization: Bearer`. Raises a Problem: 401, or 500 without a key. */
export function requireFunctionsKey(request: Request, environment: Environment): void {
  const expected = required(environment, "RETROCARE_FUNCTIONS_KEY");
  if (!isSame(bearer(request.headers) ?? "", expected)) throw unauthorized("The key is missing or wrong.");
}

export function bearer(headers: Headers): string | undefined {
  return /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
}

export interface WebhookSecrets {
  readonly secret: string | undefined;
  readonly hmacSecret: string | undefined;
}

/** Raises a Problem (500) where neither secret is set: a webhook is never open. */
export function webhookSecrets(environment: Environment): WebhookSecrets {
  const secret = environment.get("VAPI_WEBHOOK_SECRET") || undefined;
  const hmacSecret = environment.get("VAPI_HMAC_SECRET") || undefined;
  if (!secret && !hmacSecret) throw notConfigured("Neither VAPI_WEBHOOK_SECRET nor VAPI_HMAC_SECRET is set.");
  return { secret, hmacSecret };
}

/** Say whether the sender shows the secret, as a bearer's or in Vapi's own header. */
export function showsSecret(headers: Headers, secrets: WebhookSecrets): boolean {
  const shown = [bearer(headers), headers.get("x-vapi-secret")].filter((value) => value != null);
  return secrets.secret !== undefined && shown.some((value) => isSame(value, secrets.secret!));
}

/** Say whether the sender could sign at all; if not, its body need not be read. */
export function carriesSignature(headers: Headers, secrets: WebhookSecrets): boolean {
  return secrets.hmacSecret !== undefined && headers.has("x-signature") && headers.has("x-timestamp");
}

/** Raises a Problem (401) unless `x-signature` is the HMAC-SHA256 of `{x-timestamp}.{body}`, signed within the window. */
export function requireSignature(headers: Headers, body: Uint8Array, secrets: WebhookSecrets, now: number): void {
  const timestamp = headers.get("x-timestamp") ?? "";
  const signature = (headers.get("x-signature") ?? "").replace(/^sha256=/i, "").toLowerCase();
  const expected = createHmac("sha256", secrets.hmacSecret!).update(`${timestamp}.`).update(body).digest("hex");
  if (!isSame(signature, expected)) throw unauthorized("The signature is wrong.");
  if (!/^\d{9,14}$/.test(timestamp)) throw unauthorized("The timestamp is none.");
  const signedAt = Number(timestamp) * (timestamp.length > 11 ? 1 : 1000); // milliseconds, or seconds
  if (Math.abs(now - signedAt) > WINDOW_MILLISECONDS) throw unauthorized("The timestamp is not of now.");
}

export function unauthorized(detail: string): Problem {
  return new Problem(401, "unauthorized", detail, undefined, { "www-authenticate": "Bearer" });
}
