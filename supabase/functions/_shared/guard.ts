/**
 * The guarded GET: at which address a host is asked, for how long, for how much, and where it may send us.
 *
 * A host is resolved once; every answer must be public, and the connection goes to exactly these answers. Each redirect
 * is checked as if it had been asked for, and credentials stay with the origin that they were meant for.
 */
import { type AllowedHosts, checkAllowed, isPublic, originOf, parseUrl, redirectedUrl, type Url } from "./addresses.ts";
import { type Answer, exchange, INTERNET, Limits, type Network, type Question, resolve } from "./exchange.ts";
import { FetchFailure } from "./fetches.ts";

export interface FetchRules extends AllowedHosts {
  readonly fetchSeconds: number;
  readonly maximumRecordingBytes: number;
}

const MOST_REDIRECTS = 3;
const REDIRECTS = [301, 302, 303, 307, 308];

/** Return the bytes behind an address. Raises a FetchFailure. */
export async function get(
  address: string,
  rules: FetchRules,
  authorization?: string,
  network: Network = INTERNET,
): Promise<Uint8Array> {
  const limits = new Limits(rules.fetchSeconds, rules.maximumRecordingBytes);
  let url = parseUrl(address);
  let shown = authorization;
  for (let redirects = 0; redirects <= MOST_REDIRECTS; redirects++) {
    const headers: Record<string, string> = shown ? { authorization: shown } : {};
    const found = await ask(url, { method: "GET", headers }, rules, limits, network, async (answer) => {
      const location = answer.header("location");
      if (REDIRECTS.includes(answer.status) && location) return redirectedUrl(url, location);
      checkStatus(answer.status, redirects > 0);
      return await answer.body();
    });
    if (found instanceof Uint8Array) return found;
    if (originOf(found) !== originOf(url)) shown = undefined;
    url = found;
  }
  throw new FetchFailure("recording_refused", `More than ${MOST_REDIRECTS} redirects.`, { refusal: "redirect" });
}

/** Ask once, where that is allowed, and follow no redirect. Raises a FetchFailure. */
export async function ask<T>(
  url: Url,
  question: Question,
  allowed: AllowedHosts,
  limits: Limits,
  network: Network,
  use: (answer: Answer) => Promise<T>,
): Promise<T> {
  const isPrivate = checkAllowed(url, allowed);
  const addresses = await resolve(url.host, limits, network);
  if (!isPrivate && !addresses.every(isPublic)) {
    throw new FetchFailure("recording_refused", "The host has an address that is not public.", { refusal: "address" });
  }
  return await exchange(url, addresses, question, limits, network, use);
}

/** Every status but 200 is a failure: 206 would be a part of a recording. */
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
