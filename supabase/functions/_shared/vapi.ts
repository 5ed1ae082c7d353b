/** Vapi's API, as far as recordings and the list of calls go. All of it through the guard. */
import { log } from "./events.ts";
import { parseUrl } from "./addresses.ts";
import { INTERNET, Limits } from "./exchange.ts";
import { FetchFailure } from "./fetches.ts";
import { ask, get } from "./guard.ts";
import type { SourceChannel } from "./report.ts";
import type { Settings } from "./settings.ts";

/** A call as the API gives it: to be read by `readReport({call})`. */
export type ListedCall = Record<string, unknown>;

export const PROVIDER = "vapi";
const PAGE = 100;
const LONGEST_LIST_BYTES = 20_000_000;
const RECORDINGS: Record<SourceChannel, string> = { customer: "customer", stereo: "stereo", mixed: "mono" };

/** What the operator reads of a failure: a key that the API refuses is theirs to mend. */
export function codeOf(failure: FetchFailure): string {
  return failure.status === 401 || failure.status === 403 ? "provider_unauthorised" : "provider_unreachable";
}

export class Vapi {
  readonly #settings: Settings;
  readonly #authorization: string | undefined;

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#authorization = settings.vapiKey && `Bearer ${settings.vapiKey}`;
  }

  get hasKey(): boolean {
    return this.#authorization !== undefined;
  }

  /** Return a recording: the API sends us on to a signed address. Raises a FetchFailure. */
  recording(callId: string, channel: SourceChannel): Promise<Uint8Array> {
    return this.#get(`/call/${callId}/${RECORDINGS[channel]}-recording`);
  }

  /** Raises a FetchFailure. */
  async call(callId: string): Promise<ListedCall> {
    return parsed(await this.#get(`/call/${callId}`, LONGEST_LIST_BYTES)) as ListedCall;
  }

  /** Delete a call with everything that the provider keeps of it; one that is not there is deleted. Raises a FetchFailure. */
  async deleteCall(callId: string): Promise<void> {
    const url = parseUrl(`${this.#settings.vapiUrl}/call/${encodeURIComponent(callId)}`);
    const headers: Record<string, string> = this.#authorization ? { authorization: this.#authorization } : {};
    const limits = new Limits(this.#settings.fetchSeconds, LONGEST_LIST_BYTES);
    const asked = (method: "DELETE" | "GET") =>
      ask(url, { method, headers }, this.#settings, limits, INTERNET, (answer) => Promise.resolve(answer.status));
    const status = await asked("DELETE");
    if (status === 404) return;
    if (status === 401 || status === 403) {
      throw new FetchFailure("recording_refused", `The provider refused (${status}).`, { status });
    }
    // It is believed when it is seen.
    if (status >= 300 || await asked("GET") !== 404) {
      throw new FetchFailure("recording_unreachable", "The provider still has the call.", { status });
    }
  }

  /** Give the calls that were made between two moments, page by page, whichever way the API sorts them. Raises a FetchFailure. */
  async *calls(since: string, until: string): AsyncGenerator<ListedCall[]> {
    const seen = new Set<unknown>();
    let from = Date.parse(since) - 1; // both ends are left out of the list
    let to = Date.parse(until) + 1;
    while (from < to) {
      const range = new URLSearchParams({
        createdAtGt: new Date(from).toISOString(),
        createdAtLt: new Date(to).toISOString(),
        limit: String(PAGE),
      });
      const page = parsed(await this.#get(`/call?${range}`, LONGEST_LIST_BYTES));
      const listed = Array.isArray(page) ? page.filter((call) => typeof call?.id === "string") as ListedCall[] : [];
      const fresh = listed.filter((call) => !seen.has(call.id));
      fresh.forEach((call) => seen.add(call.id));
      if (fresh.length > 0) yield fresh;
      if (listed.length < PAGE) return;
      const times = listed.map((call) => Date.parse(String(call.createdAt))).filter(Number.isFinite);
      const [first = NaN, last = NaN] = [times[0], times.at(-1)];
      // One more millisecond than needed: others may have been made in the same one, and are known by their ids.
      const isNewestFirst = first >= last;
      const isStuck = fresh.length === 0;
      if (isStuck) log("error", "sweep_page_full", { code: "too_many_calls_in_a_millisecond" });
      if (isNewestFirst) to = Math.min(...times) + (isStuck ? 0 : 1);
      else from = Math.max(...times) - (isStuck ? 0 : 1);
      if (!times.length) return;
    }
  }

  #get(path: string, maximumBytes = this.#settings.maximumRecordingBytes): Promise<Uint8Array> {
    const rules = { ...this.#settings, maximumRecordingBytes: maximumBytes };
    return get(this.#settings.vapiUrl + path, rules, this.#authorization);
  }
}

function parsed(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(body));
  } catch {
    throw new FetchFailure("recording_unreachable", "The provider's answer is not JSON.");
  }
}
