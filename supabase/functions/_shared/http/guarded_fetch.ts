/**
 * Requests to hosts that somebody else named, guarded against server-side request forgery.
 *
 * A host must be allowed. It is resolved once; every IP address must be public, and the connection goes to exactly
 * those addresses. Each redirect is checked like the first URL, and credentials are sent to their own origin only. Time
 * and size are limited.
 */
import { type AllowedHosts, checkAllowed, isPublic, originOf, parseUrl, redirectedUrl, type Url } from "./addresses.ts";
import { FetchFailure } from "./fetch_failure.ts";
import {
  FetchBudget,
  INTERNET,
  type Network,
  type PinnedRequest,
  type PinnedResponse,
  resolve,
  sendPinned,
} from "./pinned_client.ts";

export interface FetchRules extends AllowedHosts {
  readonly fetchSeconds: number;
  readonly maximumRecordingBytes: number;
}

const MOST_REDIRECTS = 3;
const REDIRECTS = [301, 302, 303, 307, 308];

/** Fetch a URL, following redirects, and return its body. Raises a FetchFailure. */
export async function get(
  address: string,
  rules: FetchRules,
  authorization?: string,
  network: Network = INTERNET,
): Promise<Uint8Array> {
  const budget = new FetchBudget(rules.fetchSeconds, rules.maximumRecordingBytes);
  let url = parseUrl(address);
  let credentials = authorization;
  for (let redirects = 0; redirects <= MOST_REDIRECTS; redirects++) {
    const headers: Record<string, string> = credentials ? { authorization: credentials } : {};
    const found = await send(url, { method: "GET", headers }, rules, budget, network, async (response) => {
      const location = response.header("location");
      if (REDIRECTS.includes(response.status) && location) return redirectedUrl(url, location);
      checkStatus(response.status, redirects > 0);
      return await response.body();
    });
    if (found instanceof Uint8Array) return found;
    if (originOf(found) !== originOf(url)) credentials = undefined;
    url = found;
  }
  throw new FetchFailure("recording_refused", `More than ${MOST_REDIRECTS} redirects.`, { refusal: "redirect" });
}

/** Send one request to an allowed host, without following redirects. Raises a FetchFailure. */
export async function send<T>(
  url: Url,
  request: PinnedRequest,
  allowed: AllowedHosts,
  budget: FetchBudget,
  network: Network,
  use: (response: PinnedResponse) => Promise<T>,
): Promise<T> {
  const isPrivate = checkAllowed(url, allowed);
  const addresses = await resolve(url.host, budget, network);
  if (!isPrivate && !addresses.every(isPublic)) {
    throw new FetchFailure("recording_refused", "The host has an address that is not public.", { refusal: "address" });
  }
  return await sendPinned(url, addresses, request, budget, network, use);
}

/** Raises a FetchFailure for every status but 200: 206, for one, would be only a part of a recording. */
function checkStatus(status: number, isRedirected: boolean): void {
  if (status === 200) return;
  const details = { status, isRedirected };
  if (status === 404 || status === 410) {
    throw new FetchFailure("recording_not_found", "There is no recording at that address.", details);
  }
  if (status === 400 || status === 401 || status === 403) {
    throw new FetchFailure("recording_refused", `The recording's host refused (${status}).`, details);
  }
  throw new FetchFailure("recording_unreachable", `The recording's host answered ${status}.`, details);
}
