/**
 * Where a call's recording is got from: the best address that works, of the best channel that there is.
 *
 * The patient alone is best, then two channels, last the mix of patient and agent, which nobody can judge. A channel is
 * given up only where the provider says that there is none: a failure that may pass is waited for, and so is the key
 * that an operator can mend, since what is stored is final.
 */
import { type AudioKind, audioKind } from "./audio.ts";
import type { RecordingClaim } from "./database.ts";
import { FetchFailure } from "./fetches.ts";
import { get } from "./guard.ts";
import { type CallReport, readReport, type Source, type SourceChannel, UnreadableReport } from "./report.ts";
import { moment } from "./requests.ts";
import type { Settings } from "./settings.ts";
import { PROVIDER, Vapi } from "./vapi.ts";

export interface FoundRecording {
  readonly content: Uint8Array;
  readonly kind: AudioKind;
  readonly channel: SourceChannel;
  /** As the provider's API gave them, where it was asked; null: not known. */
  readonly speechIntervals: CallReport["speechIntervals"];
}

/** Why a recording could not be had, with a stable code. The message quotes nothing that was sent or received. */
export class RecordingFailure extends Error {
  constructor(readonly code: string, message: string, readonly isPermanent = false) {
    super(message);
    this.name = "RecordingFailure";
  }
}

/** No search takes longer than so many fetches may. */
export const LONGEST_SEARCH = 2;
/** So long after the end of a call its recordings may still be on their way. */
const LATE_MILLISECONDS = 10 * 60_000;
/** So long one that is not there is looked for again. */
const MISSING_MILLISECONDS = 24 * 3600_000;
/** Where nothing tells when the call ended: as many attempts, some minutes by the waits between them. */
const LATE_ATTEMPTS = 5;
const MISSING_ATTEMPTS = 12;
/** An address is not begun with that ends within so long. */
const EXPIRY_MARGIN_MILLISECONDS = 10_000;

/** Return the recording. Raises RecordingFailure. */
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
  readonly #vapi: Vapi;
  readonly #given: Source[];
  #asked: CallReport | null | undefined; // null: asked in vain
  readonly #met = new Map<string, RecordingFailure>();
  readonly #begun = performance.now();

  constructor(readonly claim: RecordingClaim, readonly settings: Settings, readonly now: number) {
    // The key is that of the provider's own account: under another, the same id may be somebody else's call.
    this.#vapi = new Vapi(claim.provider_account === PROVIDER ? settings : { ...settings, vapiKey: undefined });
    const expiresAt = moment(claim.source_expires_at);
    this.#given = claim.source_url && claim.source_channel
      ? [{ url: claim.source_url, channel: claim.source_channel, expiresAt, isSigned: expiresAt !== null }]
      : [];
  }

  /** Try every address of one channel: signed ones, the API, what the API says of the call, and plain ones. */
  async take(channel: SourceChannel): Promise<FoundRecording | undefined> {
    const ofChannel = (source: Source) => source.channel === channel;
    const given = this.#given.filter(ofChannel);
    const tried = new Set<string>();
    const direct = async (sources: readonly Source[]) => {
      for (const source of sources.filter((source) => !tried.has(source.url))) {
        tried.add(source.url);
        const found = await this.#try(channel, () => this.#direct(source));
        if (found) return found;
      }
    };
    return await direct(given.filter((source) => source.isSigned)) ??
      (this.#mayAsk()
        ? await this.#try(channel, () => this.#vapi.recording(this.claim.provider_call_id, channel), true)
        : undefined) ??
      await direct(given) ??
      await direct((await this.#call())?.sources.filter(ofChannel) ?? []);
  }

  /** Raises what may pass, or be mended, before a worse channel is taken. */
  giveUpOrGoOn(channel: SourceChannel): void {
    const passing = ["recording_unreachable", "recording_too_large"].map((code) => this.#met.get(code));
    const failure = passing.find((met) => met !== undefined);
    if (failure) throw failure;
    if (channel !== "stereo") return;
    const mendable = this.#met.get("provider_unauthorised") ?? this.#met.get("recording_refused");
    if (mendable) throw mendable;
    if (this.#vapi.hasKey && this.#isLate()) throw this.failure();
  }

  /** What to say where nothing was found: first what an operator can mend. */
  failure(): RecordingFailure {
    const order = ["provider_unauthorised", "recording_refused", "recording_not_audio", "recording_expired"];
    const met = order.map((code) => this.#met.get(code)).find((one) => one !== undefined);
    if (met && (met.code !== "recording_expired" || !this.#vapi.hasKey)) return met;
    if (this.#isLate()) {
      return new RecordingFailure("recording_late", "The provider has no recording of this call yet.");
    }
    if (!this.#vapi.hasKey) {
      return new RecordingFailure(
        "provider_key_missing",
        "No address of the recording works, and VAPI_API_KEY is not set.",
      );
    }
    return new RecordingFailure("recording_not_found", "The provider has no recording of this call.", this.#isGone());
  }

  async #direct(source: Source): Promise<Uint8Array> {
    if (source.expiresAt && Date.parse(source.expiresAt) - EXPIRY_MARGIN_MILLISECONDS <= this.now) {
      throw new RecordingFailure(
        "recording_expired",
        "The recording's address works no longer; VAPI_API_KEY gets others.",
      );
    }
    return await get(source.url, this.settings);
  }

  async #try(
    channel: SourceChannel,
    fetch: () => Promise<Uint8Array>,
    isByKey = false,
  ): Promise<FoundRecording | undefined> {
    if (performance.now() - this.#begun > 1000 * this.settings.fetchSeconds) {
      this.#note(new RecordingFailure("recording_unreachable", "The provider took too long for one attempt."));
      return undefined;
    }
    try {
      const content = await fetch();
      const kind = audioKind(content);
      if (kind) return { content, kind, channel, speechIntervals: this.#asked?.speechIntervals ?? null };
      // An error page may have come with status 200; it is believed after a few attempts.
      const isPermanent = this.claim.attempts > LATE_ATTEMPTS;
      this.#note(
        new RecordingFailure("recording_not_audio", "What came is not audio that can be decoded.", isPermanent),
      );
    } catch (error) {
      this.#note(failureOf(error, isByKey));
    }
  }

  /** Ask the API about the call itself, once. */
  async #call(): Promise<CallReport | null> {
    if (this.#asked === undefined && this.#mayAsk()) {
      this.#asked = null;
      try {
        this.#asked = readReport({ call: await this.#vapi.call(this.claim.provider_call_id) });
      } catch (error) {
        if (!(error instanceof UnreadableReport)) this.#note(failureOf(error, true));
      }
    }
    return this.#asked ?? null;
  }

  #mayAsk(): boolean {
    return this.#vapi.hasKey && !this.#met.has("provider_unauthorised");
  }

  #note(failure: RecordingFailure): void {
    this.#met.set(failure.code, failure);
  }

  #isLate(): boolean {
    const endedAt = this.#asked?.endedAt;
    return endedAt ? this.now - Date.parse(endedAt) < LATE_MILLISECONDS : this.claim.attempts < LATE_ATTEMPTS;
  }

  #isGone(): boolean {
    const endedAt = this.#asked?.endedAt;
    return endedAt ? this.now - Date.parse(endedAt) > MISSING_MILLISECONDS : this.claim.attempts >= MISSING_ATTEMPTS;
  }
}

/** `isByKey`: the provider's API was asked with our key, and a refusal of its own means the key. */
function failureOf(error: unknown, isByKey: boolean): RecordingFailure {
  if (error instanceof RecordingFailure) return error;
  if (!(error instanceof FetchFailure)) throw error;
  const { status, code, message } = error;
  const isRefused = status === 400 || status === 401 || status === 403;
  if (!isRefused) return new RecordingFailure(code, message, code === "recording_too_large");
  // A signed address that is over answers so; one that was signed just now should not.
  if (!isByKey) return new RecordingFailure("recording_expired", message);
  if (error.isRedirected) return new RecordingFailure("recording_unreachable", message);
  if (status === 400) return new RecordingFailure("recording_not_found", message);
  return new RecordingFailure("provider_unauthorised", `The provider refuses VAPI_API_KEY (${status}).`);
}
