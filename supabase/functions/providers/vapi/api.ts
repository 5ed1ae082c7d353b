/** Vapi's API, as far as calls and their recordings go. */
import { parseUrl } from "../../_shared/http/addresses.ts";
import { FetchFailure } from "../../_shared/http/fetch_failure.ts";
import { type FetchRules, get, send } from "../../_shared/http/guarded_fetch.ts";
import { FetchBudget, INTERNET } from "../../_shared/http/pinned_client.ts";
import { type Environment, withoutSlash } from "../../_shared/settings.ts";
import type { CallPage, CallReport, ListedCall, ProviderApi, SourceChannel } from "../provider.ts";
import { readReport } from "./report.ts";

const LARGEST_LIST_BYTES = 20_000_000;
const LIST_SECONDS = 5;
const RECORDINGS: Record<SourceChannel, string> = { customer: "customer", stereo: "stereo", mixed: "mono" };

/** Without a slash at its end. */
export function apiUrl(environment: Environment): string {
  return withoutSlash(environment.get("VAPI_API_URL") || "https://api.vapi.ai");
}

export class VapiApi implements ProviderApi {
  readonly keySetting = "VAPI_API_KEY";
  readonly largestPage = 1000;
  readonly hasKey: boolean;
  readonly #url: string;
  readonly #authorization: string;
  readonly #rules: FetchRules;

  constructor(environment: Environment, rules: FetchRules) {
    const key = environment.get("VAPI_API_KEY");
    this.hasKey = Boolean(key);
    this.#authorization = `Bearer ${key}`;
    this.#url = apiUrl(environment);
    this.#rules = rules;
  }

  async listUpdatedCalls(from: number, until: number, limit: number): Promise<CallPage> {
    const range = new URLSearchParams({
      updatedAtGe: new Date(from).toISOString(),
      updatedAtLt: new Date(until).toISOString(),
      limit: String(limit),
    });
    const fetchSeconds = Math.min(LIST_SECONDS, this.#rules.fetchSeconds);
    const page = await this.#getJson(`/call?${range}`, { ...this.#rules, fetchSeconds });
    if (!Array.isArray(page)) {
      throw new FetchFailure("recording_unreachable", "The provider's answer is not a list of calls.");
    }
    return { calls: page.filter(hasId).map(listedCall), isFull: page.length >= limit };
  }

  async readCall(callId: string): Promise<CallReport> {
    return readReport({ call: await this.#getJson(`/call/${callId}`, this.#rules) });
  }

  /** The API redirects to a signed URL. */
  recording(callId: string, channel: SourceChannel): Promise<Uint8Array> {
    return get(`${this.#url}/call/${callId}/${RECORDINGS[channel]}-recording`, this.#rules, this.#authorization);
  }

  async deleteCall(callId: string): Promise<void> {
    const url = parseUrl(`${this.#url}/call/${encodeURIComponent(callId)}`);
    const headers = { authorization: this.#authorization };
    const budget = new FetchBudget(this.#rules.fetchSeconds, LARGEST_LIST_BYTES);
    const statusOf = (method: "DELETE" | "GET") =>
      send(url, { method, headers }, this.#rules, budget, INTERNET, ({ status }) => Promise.resolve(status));
    const status = await statusOf("DELETE");
    if (status === 404) return;
    if (status === 401 || status === 403) {
      throw new FetchFailure("recording_refused", `The provider refused (${status}).`, { status });
    }
    if (status >= 300 || await statusOf("GET") !== 404) {
      throw new FetchFailure("recording_unreachable", "The provider still has the call.", { status });
    }
  }

  async #getJson(path: string, rules: FetchRules): Promise<unknown> {
    const listRules = { ...rules, maximumRecordingBytes: LARGEST_LIST_BYTES };
    const body = await get(this.#url + path, listRules, this.#authorization);
    try {
      return JSON.parse(new TextDecoder().decode(body));
    } catch {
      throw new FetchFailure("recording_unreachable", "The provider's answer is not JSON.");
    }
  }
}

type Call = Readonly<Record<string, unknown>> & { readonly id: string };

function hasId(call: unknown): call is Call {
  return typeof (call as { id?: unknown } | null)?.id === "string";
}

function listedCall(call: Call): ListedCall {
  return { id: call.id, hasEnded: call.status === "ended", report: () => readReport({ call }) };
}
