/** Vapi's API, as far as recordings and the list of calls go. All of it through the guard. */
import { parseUrl } from "./addresses.ts";
import { INTERNET, Limits } from "./exchange.ts";
import { FetchFailure } from "./fetches.ts";
import { ask, get } from "./guard.ts";
import type { SourceChannel } from "./report.ts";
import type { Settings } from "./settings.ts";

/** A call as the API gives it: to be read by `readReport({call})`. */
export type ListedCall = Record<string, unknown>;

export const PROVIDER = "vapi";
const LONGEST_LIST_BYTES = 20_000_000;
/** A list that takes longer is asked for in smaller pages. */
const LIST_SECONDS = 5;
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

  /** List the calls that were last updated from one moment (milliseconds) until before another. Raises a FetchFailure. */
  async updatedCalls(from: number, until: number, limit: number): Promise<ListedCall[]> {
    const range = new URLSearchParams({
      updatedAtGe: new Date(from).toISOString(),
      updatedAtLt: new Date(until).toISOString(),
      limit: String(limit),
    });
    const page = parsed(await this.#get(`/call?${range}`, LONGEST_LIST_BYTES, LIST_SECONDS));
    if (!Array.isArray(page)) {
      throw new FetchFailure("recording_unreachable", "The provider's answer is no list of calls.");
    }
    return page as ListedCall[];
  }

  #get(
    path: string,
    maximumBytes = this.#settings.maximumRecordingBytes,
    seconds = this.#settings.fetchSeconds,
  ): Promise<Uint8Array> {
    const fetchSeconds = Math.min(seconds, this.#settings.fetchSeconds);
    const rules = { ...this.#settings, fetchSeconds, maximumRecordingBytes: maximumBytes };
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
