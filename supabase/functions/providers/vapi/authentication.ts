/**
 * How Vapi shows that a request is its own: VAPI_WEBHOOK_SECRET in a header, or a signature made with VAPI_HMAC_SECRET.
 */
import { bearer, isSame, requireSignature, unauthorized } from "../../_shared/http/authentication.ts";
import { readBody } from "../../_shared/http/requests.ts";
import { type Environment, notConfigured } from "../../_shared/settings.ts";
import { MAXIMUM_REPORT_BYTES } from "../provider.ts";

/** As `Provider.authenticate`. Either of the two secrets is enough. */
export async function authenticate(request: Request, environment: Environment): Promise<Uint8Array> {
  const { headers } = request;
  const secret = environment.get("VAPI_WEBHOOK_SECRET");
  const hmacSecret = environment.get("VAPI_HMAC_SECRET");
  if (!secret && !hmacSecret) throw notConfigured("Neither VAPI_WEBHOOK_SECRET nor VAPI_HMAC_SECRET is set.");
  if (secret && hasSecret(headers, secret)) return await readBody(request, MAXIMUM_REPORT_BYTES);
  const timestamp = headers.get("x-timestamp"),
    signature = headers.get("x-signature");
  if (!hmacSecret || timestamp === null || signature === null) {
    throw unauthorized("The request has neither the webhook's secret nor a signature.");
  }
  const body = await readBody(request, MAXIMUM_REPORT_BYTES);
  requireSignature({ timestamp, signature: signature.replace(/^sha256=/i, ""), body }, hmacSecret, Date.now());
  return body;
}

function hasSecret(headers: Headers, secret: string): boolean {
  return [bearer(headers), headers.get("x-vapi-secret")].some((given) => given != null && isSame(given, secret));
}
