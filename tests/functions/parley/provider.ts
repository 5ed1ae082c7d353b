/**
 * Parley, a phone provider that does not exist, written as a real one would be: this folder's provider.ts is all of it that
 * would stand in supabase/functions/providers/parley/.
 *
 * It differs from Vapi in everything that a provider may: it signs with a key, reports and lists calls in shapes of its own,
 * lists 20 calls at most, serves recordings without a redirect, and answers 410 for a call that was deleted.
 */
import { parseUrl } from "../../../supabase/functions/_shared/http/addresses.ts";
import { requireSignature, unauthorized } from "../../../supabase/functions/_shared/http/authentication.ts";
import { FetchFailure } from "../../../supabase/functions/_shared/http/fetch_failure.ts";
import { type FetchRules, get, send } from "../../../supabase/functions/_shared/http/guarded_fetch.ts";
import { FetchBudget, INTERNET } from "../../../supabase/functions/_shared/http/pinned_client.ts";
import { isUuid, moment, parseJson, readBody } from "../../../supabase/functions/_shared/http/requests.ts";
import { type Environment, hostOf, required, withoutSlash } from "../../../supabase/functions/_shared/settings.ts";
import {
  type CallPage,
  type CallReport,
  MAXIMUM_REPORT_BYTES,
  type Provider,
  type ProviderApi,
  type SourceChannel,
  UnreadableReport,
} from "../../../supabase/functions/providers/provider.ts";

export const LARGEST_PAGE = 20;
const LEGS: Record<SourceChannel, string> = { customer: "callee", stereo: "both", mixed: "mix" };

/** A call as Parley shows it, in its webhook and in its API. */
export interface ParleyCall {
  readonly uuid: string;
  readonly callee: string;
  readonly phase: "talking" | "finished";
  readonly result?: string;
  /** In seconds since 1970. */
  readonly times: { readonly answered: number; readonly finished?: number; readonly changed: number };
  readonly tags?: { readonly patient?: string };
  /** In milliseconds from the answer. */
  readonly callee_spoke?: readonly { readonly from: number; readonly to: number }[];
  readonly media?: readonly { readonly leg: string; readonly href: string }[];
}

export const parley: Provider = {
  name: "parley",
  recordingHosts: ["media.parley.example"],
  apiHost: (environment) => hostOf("PARLEY_API_URL", apiUrl(environment)),
  authenticate: async (request, environment) => {
    const key = required(environment, "PARLEY_SIGNING_KEY");
    const [, timestamp, signature] = /^at=(\d+) by=([0-9a-f]+)$/.exec(request.headers.get("parley-signature") ?? "") ??
      [];
    if (!timestamp || !signature) throw unauthorized("The request has no signature.");
    const body = await readBody(request, MAXIMUM_REPORT_BYTES);
    requireSignature({ timestamp, signature, body }, key, Date.now());
    return body;
  },
  readReport: (body) => {
    const { event, call } = parseJson(body) as { event?: string; call?: ParleyCall };
    return event === "call.finished" ? reportOf(call) : undefined;
  },
  api: (environment, rules) => new ParleyApi(environment, rules),
};

class ParleyApi implements ProviderApi {
  readonly keySetting = "PARLEY_API_TOKEN";
  readonly largestPage = LARGEST_PAGE;
  readonly hasKey: boolean;
  readonly #url: string;
  readonly #authorization: string;
  readonly #rules: FetchRules;

  constructor(environment: Environment, rules: FetchRules) {
    const token = environment.get("PARLEY_API_TOKEN");
    this.hasKey = Boolean(token);
    this.#authorization = `Token ${token}`;
    this.#url = apiUrl(environment);
    this.#rules = rules;
  }

  async listUpdatedCalls(from: number, until: number, limit: number): Promise<CallPage> {
    const query = new URLSearchParams({ from: `${from}`, until: `${until}`, size: `${limit}` });
    const { items, more } = await this.#json(`/v2/calls?${query}`) as { items: ParleyCall[]; more: boolean };
    const calls = items.map((call) => ({
      id: call.uuid,
      hasEnded: call.phase === "finished",
      report: () => reportOf(call),
    }));
    return { calls, isFull: more };
  }

  async readCall(callId: string): Promise<CallReport> {
    return reportOf(await this.#json(`/v2/calls/${callId}`) as ParleyCall);
  }

  recording(callId: string, channel: SourceChannel): Promise<Uint8Array> {
    return get(`${this.#url}/v2/calls/${callId}/media/${LEGS[channel]}`, this.#rules, this.#authorization);
  }

  async deleteCall(callId: string): Promise<void> {
    const url = parseUrl(`${this.#url}/v2/calls/${callId}`);
    const budget = new FetchBudget(this.#rules.fetchSeconds, 100_000);
    for (const method of ["DELETE", "GET"] as const) {
      const headers = { authorization: this.#authorization };
      const status = await send(
        url,
        { method, headers },
        this.#rules,
        budget,
        INTERNET,
        (response) => Promise.resolve(response.status),
      );
      if (status === 410) return;
      if (method === "GET" || status >= 300) {
        throw new FetchFailure("recording_unreachable", "The provider still has the call.", { status });
      }
    }
  }

  async #json(path: string): Promise<unknown> {
    return JSON.parse(new TextDecoder().decode(await get(this.#url + path, this.#rules, this.#authorization)));
  }
}

function apiUrl(environment: Environment): string {
  return withoutSlash(environment.get("PARLEY_API_URL") || "https://api.parley.example");
}

function reportOf(call: ParleyCall | undefined): CallReport {
  if (typeof call?.uuid !== "string") throw new UnreadableReport("The report has no call.uuid.");
  const isoOf = (seconds: number | undefined) => moment(seconds === undefined ? null : seconds * 1000);
  const channelOf = (leg: string) => (Object.keys(LEGS) as SourceChannel[]).find((channel) => LEGS[channel] === leg);
  return {
    providerCallId: call.uuid,
    patientId: isUuid(call.tags?.patient) ? call.tags.patient : null,
    phone: call.callee,
    startedAt: isoOf(call.times.answered),
    endedAt: isoOf(call.times.finished),
    endedReason: call.result ?? null,
    summary: null,
    sources: (call.media ?? []).flatMap(({ leg, href: url }) => {
      const channel = channelOf(leg);
      return channel ? [{ url, channel, expiresAt: null, isSigned: false }] : [];
    }),
    speechIntervals: call.callee_spoke?.map(({ from, to }) => [from / 1000, to / 1000] as const) ?? null,
    isRecordingConsented: null,
  };
}
