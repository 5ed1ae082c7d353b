/**
 * What the functions need of a phone provider: how its webhook is authenticated, what its reports say, and its API.
 *
 * Everything that only one provider has, from settings to payloads, is in that provider's folder; `registry.ts` lists
 * those that are deployed.
 */
import type { FetchFailure } from "../_shared/http/fetch_failure.ts";
import type { FetchRules } from "../_shared/http/guarded_fetch.ts";
import type { Environment } from "../_shared/settings.ts";

export interface Provider {
  /** Its id in care.providers, and the last part of its webhook's URL. */
  readonly name: string;
  /** Where it keeps recordings, in the notation of RETROCARE_FETCH_HOSTS; that setting replaces them. */
  readonly recordingHosts: readonly string[];
  /** The host of its API. Raises a Problem (500, `not_configured`). */
  apiHost(environment: Environment): string;
  /**
   * Return the raw body of a request that the provider sent, of MAXIMUM_REPORT_BYTES at most. Raises a Problem: 401 for
   * any other sender, before the body is read where the headers cannot prove anything; 500 where no secret is set; 400,
   * 408 or 413 for the body.
   */
  authenticate(request: Request, environment: Environment): Promise<Uint8Array>;
  /** Read a webhook's body; undefined: no report of a finished call. Raises UnreadableReport or a Problem (400). */
  readReport(body: Uint8Array): CallReport | undefined;
  /** Its API. Every request obeys these rules for fetching. */
  api(environment: Environment, rules: FetchRules): ProviderApi;
}

export const MAXIMUM_REPORT_BYTES = 2_000_000;

/**
 * The API of the provider's own account: the one in care.provider_accounts that has the provider's name.
 *
 * Without a key, none of its methods is called. They raise a FetchFailure: with status 401 or 403 if the key is
 * refused, `recording_not_found` for a recording that does not exist, `recording_too_large` for any answer that is too
 * large.
 */
export interface ProviderApi {
  readonly hasKey: boolean;
  /** The setting that holds the key. */
  readonly keySetting: string;
  /** The most calls that it lists at once. */
  readonly largestPage: number;
  /**
   * List calls that were last updated from one time until before another (milliseconds since 1970), in any order. It
   * gives up after a few seconds, because then a smaller page is requested.
   */
  listUpdatedCalls(from: number, until: number, limit: number): Promise<CallPage>;
  /** Read one call. It may also raise an UnreadableReport. */
  readCall(callId: string): Promise<CallReport>;
  recording(callId: string, channel: SourceChannel): Promise<Uint8Array>;
  /** Delete a call with everything that the provider keeps of it, and verify that it is gone. */
  deleteCall(callId: string): Promise<void>;
}

export interface CallPage {
  readonly calls: readonly ListedCall[];
  /** It holds as many calls as it may, so that there may be more. */
  readonly isFull: boolean;
}

export interface ListedCall {
  readonly id: string;
  readonly hasEnded: boolean;
  /** Raises an UnreadableReport. */
  report(): CallReport;
}

/** What receive_call_report() takes. null: the provider did not say. */
export interface CallReport {
  readonly providerCallId: string;
  readonly patientId: string | null;
  readonly phone: string | null;
  readonly startedAt: string | null;
  readonly endedAt: string | null;
  readonly endedReason: string | null;
  readonly summary: string | null;
  /** Every URL of the recording, the best first. */
  readonly sources: readonly Source[];
  /** When the patient spoke; empty: the report shows that the patient said nothing. */
  readonly speechIntervals: readonly Interval[] | null;
  readonly isRecordingConsented: boolean | null;
}

/** A URL of a recording. */
export interface Source {
  readonly url: string;
  readonly channel: SourceChannel;
  readonly expiresAt: string | null;
  /** The URL itself is the permission to fetch it, for a while. */
  readonly isSigned: boolean;
}

/** The patient alone, patient and agent on two channels, or both mixed into one. */
export type SourceChannel = "customer" | "stereo" | "mixed";

/** [start, end] in seconds from the start of the call. */
export type Interval = readonly [number, number];

/** A report that does not even name its call. */
export class UnreadableReport extends Error {}

/** The code of a failure of the API that the operator reads: only a refused key can be mended by the operator. */
export function apiFailureCode(failure: FetchFailure): string {
  return failure.status === 401 || failure.status === 403 ? "provider_unauthorised" : "provider_unreachable";
}
