/**
 * Finding a call's recording: from a URL that works, of the best channel that exists.
 *
 * The patient alone is best, then two channels; the mix of patient and agent comes last, because it cannot be judged.
 * What is stored is final, so that a worse channel is taken only where the provider says that the better one does not
 * exist. Failures that may pass are waited out, and so is a refused key, which the operator can mend.
 */
import {
  type CallReport,
  type ProviderApi,
  type Source,
  type SourceChannel,
  UnreadableReport,
} from "../../providers/provider.ts";
import type { RecordingClaim } from "../database/client.ts";
import { FetchFailure } from "../http/fetch_failure.ts";
import { get } from "../http/guarded_fetch.ts";
import { moment } from "../http/requests.ts";
import type { Settings } from "../settings.ts";
import { type AudioKind, audioKind } from "./audio.ts";

export interface FoundRecording {
  readonly content: Uint8Array;
  readonly kind: AudioKind;
  readonly channel: SourceChannel;
  /** As the provider's API gave them, if it was called; null: not known. */
  readonly speechIntervals: CallReport["speechIntervals"];
}

/** Why a recording was not found, with a stable code. The message quotes nothing that was sent or received. */
export class RecordingFailure extends Error {
  constructor(readonly code: string, message: string, readonly isPermanent = false) {
    super(message);
    this.name = "RecordingFailure";
  }
}

/** A search takes at most as long as this many fetches may. */
export const SEARCH_FETCHES = 2;
/** How long after the end of its call a recording may be late. */
const LATE_MILLISECONDS = 10 * 60_000;
/** How long after the end of its call a missing recording is searched for again. */
const MISSING_MILLISECONDS = 24 * 3600_000;
/** The same in attempts, where the end of the call is not known; the waits between them grow. */
const LATE_ATTEMPTS = 5;
const MISSING_ATTEMPTS = 12;
/** A URL that expires within this time is not tried. */
const EXPIRY_MARGIN_MILLISECONDS = 10_000;

/** Find the recording. Raises a RecordingFailure. */
export async function findRecording(claim: RecordingClaim, settings: Settings, now: number): Promise<FoundRecording> {
  const search = new Search(claim, settings, now);
  for (const channel of ["customer", "stereo", "mixed"] as const) {
    const found = await search.take(channel);
    if (found) return found;
    search.giveUpOrGoOn(channel);
  }
  throw search.failure();
}

class Search {
  /** Of the call's provider, if that is deployed. */
  readonly #api: ProviderApi | undefined;
  readonly #reported: Source[];
  #call: CallReport | null | undefined; // as the API knows it; null: it gave nothing
  readonly #failures = new Map<string, RecordingFailure>();
  readonly #begun = performance.now();

  constructor(readonly claim: RecordingClaim, readonly settings: Settings, readonly now: number) {
    // The API is that of the provider's own account: in another account, the same id may be another call's.
    this.#api = claim.provider_account === claim.provider ? settings.apis.get(claim.provider) : undefined;
    const expiresAt = moment(claim.source_expires_at);
    this.#reported = claim.source_url && claim.source_channel
      ? [{ url: claim.source_url, channel: claim.source_channel, expiresAt, isSigned: expiresAt !== null }]
      : [];
  }

  /** Try everything for one channel: signed URLs, the API's recording, other URLs, and the URLs that the API names. */
  async take(channel: SourceChannel): Promise<FoundRecording | undefined> {
    const ofChannel = (source: Source) => source.channel === channel;
    const reported = this.#reported.filter(ofChannel);
    const tried = new Set<string>();
    const direct = async (sources: readonly Source[]) => {
      for (const source of sources.filter((source) => !tried.has(source.url))) {
        tried.add(source.url);
        const found = await this.#try(channel, () => this.#direct(source));
        if (found) return found;
      }
    };
    return await direct(reported.filter((source) => source.isSigned)) ??
      await this.#fromApi(channel) ??
      await direct(reported) ??
      await direct((await this.#readCall())?.sources.filter(ofChannel) ?? []);
  }

  /** Raises a failure that may pass or be mended, so that no worse channel is taken. */
  giveUpOrGoOn(channel: SourceChannel): void {
    const passing = ["recording_unreachable", "recording_too_large"].map((code) => this.#failures.get(code));
    const failure = passing.find((met) => met !== undefined);
    if (failure) throw failure;
    if (channel !== "stereo") return;
    const mendable = this.#failures.get("provider_unauthorised") ?? this.#failures.get("recording_refused");
    if (mendable) throw mendable;
    if (this.#api?.hasKey && this.#isLate()) throw this.failure();
  }

  /** The failure to report where nothing was found: first what an operator can mend. */
  failure(): RecordingFailure {
    const order = ["provider_unauthorised", "recording_refused", "recording_not_audio", "recording_expired"];
    const met = order.map((code) => this.#failures.get(code)).find((one) => one !== undefined);
    if (met && (met.code !== "recording_expired" || !this.#api?.hasKey)) return met;
    if (this.#isLate()) {
      return new RecordingFailure("recording_late", "The provider has no recording of this call yet.");
    }
    if (!this.#api?.hasKey) {
      const reason = this.#api ? `${this.#api.keySetting} is not set` : "there is no key of the call's account";
      return new RecordingFailure("provider_key_missing", `No URL of the recording works, and ${reason}.`);
    }
    return new RecordingFailure("recording_not_found", "The provider has no recording of this call.", this.#isGone());
  }

  async #direct(source: Source): Promise<Uint8Array> {
    if (source.expiresAt && Date.parse(source.expiresAt) - EXPIRY_MARGIN_MILLISECONDS <= this.now) {
      throw new RecordingFailure("recording_expired", "The recording's URL has expired.");
    }
    return await get(source.url, this.settings);
  }

  async #fromApi(channel: SourceChannel): Promise<FoundRecording | undefined> {
    const api = this.#usableApi();
    return api && await this.#try(channel, () => api.recording(this.claim.provider_call_id, channel), api);
  }

  async #try(
    channel: SourceChannel,
    fetch: () => Promise<Uint8Array>,
    api?: ProviderApi,
  ): Promise<FoundRecording | undefined> {
    if (performance.now() - this.#begun > 1000 * this.settings.fetchSeconds) {
      this.#note(new RecordingFailure("recording_unreachable", "The provider took too long for one attempt."));
      return undefined;
    }
    try {
      const content = await fetch();
      const kind = audioKind(content);
      if (kind) return { content, kind, channel, speechIntervals: this.#call?.speechIntervals ?? null };
      // It may be an error page with status 200: only after a few attempts is it taken for the recording.
      const isPermanent = this.claim.attempts > LATE_ATTEMPTS;
      this.#note(
        new RecordingFailure("recording_not_audio", "The file is not audio that can be decoded.", isPermanent),
      );
    } catch (error) {
      this.#note(failureOf(error, api));
    }
  }

  /** Read the call from the API, once. */
  async #readCall(): Promise<CallReport | null> {
    const api = this.#usableApi();
    if (this.#call === undefined && api) {
      this.#call = null;
      try {
        this.#call = await api.readCall(this.claim.provider_call_id);
      } catch (error) {
        if (!(error instanceof UnreadableReport)) this.#note(failureOf(error, api));
      }
    }
    return this.#call ?? null;
  }

  #usableApi(): ProviderApi | undefined {
    return this.#api?.hasKey && !this.#failures.has("provider_unauthorised") ? this.#api : undefined;
  }

  #note(failure: RecordingFailure): void {
    this.#failures.set(failure.code, failure);
  }

  #isLate(): boolean {
    const endedAt = this.#call?.endedAt;
    return endedAt ? this.now - Date.parse(endedAt) < LATE_MILLISECONDS : this.claim.attempts < LATE_ATTEMPTS;
  }

  #isGone(): boolean {
    const endedAt = this.#call?.endedAt;
    return endedAt ? this.now - Date.parse(endedAt) > MISSING_MILLISECONDS : this.claim.attempts >= MISSING_ATTEMPTS;
  }
}

/** `api`: where the request went to that API with its key, so that a refusal of its own means the key. */
function failureOf(error: unknown, api?: ProviderApi): RecordingFailure {
  if (error instanceof RecordingFailure) return error;
  if (!(error instanceof FetchFailure)) throw error;
  const { status, code, message } = error;
  const isRefused = status === 400 || status === 401 || status === 403;
  if (!isRefused) return new RecordingFailure(code, message, code === "recording_too_large");
  // An expired signed URL answers so; one that the API signed just now should not.
  if (!api) return new RecordingFailure("recording_expired", message);
  if (error.isRedirected) return new RecordingFailure("recording_unreachable", message);
  if (status === 400) return new RecordingFailure("recording_not_found", message);
  return new RecordingFailure("provider_unauthorised", `The provider refuses ${api.keySetting} (${status}).`);
}
