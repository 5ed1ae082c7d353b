/**
 * What Vapi says of a finished call, made into what `receive_call_report()` takes.
 *
 * The same things stand in different places, by the age of the payload: on `message.artifact`, on `message`, on
 * `message.call.artifact`, on `message.call`. They are looked for in this order, and the first that is of the right kind
 * is taken. What is of another kind is as if it were not there: a call is never lost for a field that is odd. Only a
 * report without the id of its call is refused.
 */
import { type Interval, speechIntervals } from "./messages.ts";
import { isUuid, moment } from "./requests.ts";

export type SourceChannel = "customer" | "stereo" | "mixed";

export interface Source {
  readonly url: string;
  readonly channel: SourceChannel;
  readonly expiresAt: string | null;
  /** The address carries its own permission, for a while. */
  readonly isSigned: boolean;
}

export interface CallReport {
  readonly providerCallId: string;
  readonly patientId: string | null;
  readonly phone: string | null;
  readonly startedAt: string | null;
  readonly endedAt: string | null;
  readonly endedReason: string | null;
  readonly summary: string | null;
  /** Every address of the recording, the best first. */
  readonly sources: readonly Source[];
  /** When the patient spoke; empty: the messages show that the patient said nothing; null: not known. */
  readonly speechIntervals: readonly Interval[] | null;
  /** null: nothing was said of consent. */
  readonly isRecordingConsented: boolean | null;
}

/** Thrown where there is nothing to hold on to. */
export class UnreadableReport extends Error {}

type Json = Record<string, unknown>;

const CALL_ID = /^[A-Za-z0-9_-]{1,100}$/;
const LONGEST_SUMMARY = 10_000;

/** Read the `message` of a webhook, or `{call}` for a call of the provider's list. Raises UnreadableReport. */
export function readReport(message: Json): CallReport {
  const call = object(message.call);
  const places = [object(message.artifact), message, object(call.artifact), call];
  const customers = [object(message.customer), object(call.customer)];
  const overrides = [call, message, ...customers].map((place) => object(place.assistantOverrides));
  const providerCallId = first([call.id, message.callId], callId);
  if (providerCallId === null) {
    throw new UnreadableReport("The report has no call with an id.");
  }
  return {
    providerCallId,
    patientId: first([
      ...[...overrides, call, message].map((place) => object(place.metadata).patientId),
      ...customers.map((customer) => customer.externalId),
      ...[...overrides, ...places].map((place) => object(place.variableValues).patientId),
    ], (value) => isUuid(value) ? value.toLowerCase() : null),
    phone: first(customers.map((customer) => customer.number), phoneNumber),
    startedAt: first([message.startedAt, call.startedAt], moment),
    endedAt: first([message.endedAt, call.endedAt], moment),
    endedReason: first([message.endedReason, call.endedReason], (value) => text(value, 300)),
    summary: first(
      [object(message.analysis).summary, message.summary, object(call.analysis).summary, call.summary],
      (value) => text(value, LONGEST_SUMMARY),
    ),
    sources: sourcesOf(places),
    speechIntervals: speechIntervals(places.map((place) => place.messages)),
    isRecordingConsented: first([message, call].map((place) => object(place.compliance).recordingConsent), consent),
  };
}

function sourcesOf(places: readonly Json[]): Source[] {
  const signed = (channel: SourceChannel, name: string) =>
    places.map((place) => source(place[name], channel, first([place.presignedUrlsExpiresAt], moment), true));
  const named = (channel: SourceChannel, find: (place: Json) => unknown) =>
    places.map((place) => source(find(place), channel, null, false));
  const mono = (place: Json) => object(object(place.recording).mono);
  const found = [
    ...signed("customer", "presignedCustomerUrl"),
    ...named("customer", (place) => mono(place).customerUrl),
    ...signed("stereo", "presignedStereoUrl"),
    ...named("stereo", (place) => place.stereoRecordingUrl),
    ...named("stereo", (place) => object(place.recording).stereoUrl),
    ...signed("mixed", "presignedMonoUrl"),
    ...named("mixed", (place) => mono(place).combinedUrl),
    ...named("mixed", (place) => place.recordingUrl),
    ...named("mixed", (place) => object(place.recording).url),
    ...named("mixed", (place) => object(place.transcript).audioUrl),
  ].filter((one) => one !== null);
  return found.filter((one, index) => found.findIndex((other) => other.url === one.url) === index);
}

function source(value: unknown, channel: SourceChannel, expiresAt: string | null, isSigned: boolean): Source | null {
  const isAddress = typeof value === "string" && value.length <= 8000 && /^https?:\/\/\S+$/i.test(value);
  return isAddress ? { url: value, channel, expiresAt: expiresAt ?? signedUntil(value), isSigned } : null;
}

/** Until when an address with an S3 signature works; null where it says nothing of that. */
function signedUntil(address: string): string | null {
  const query = new URLSearchParams(address.split("?")[1] ?? "");
  const date = /^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})Z$/.exec(query.get("X-Amz-Date") ?? "");
  const seconds = Number(query.get("X-Amz-Expires") ?? NaN);
  if (!date || !Number.isFinite(seconds)) return null;
  const [year = 0, month = 0, ...rest] = date.slice(1).map(Number);
  return moment(Date.UTC(year, month - 1, ...rest) + 1000 * seconds);
}

/** It is a part of addresses, so that it is refused rather than repaired. */
function callId(value: unknown): string | null {
  return typeof value === "string" && CALL_ID.test(value) ? value : null;
}

function consent(value: unknown): boolean | null {
  return typeof value === "object" && value !== null ? moment((value as Json).grantedAt) !== null : null;
}

/** A number in international form, also where it was written with spaces or hyphens. */
function phoneNumber(value: unknown): string | null {
  const written = typeof value === "string" ? value.replace(/[\s().-]/g, "") : "";
  return /^\+[1-9][0-9]{5,14}$/.test(written) ? written : null;
}

/** A text that PostgreSQL takes, cut where it is too long. */
function text(value: unknown, longest: number): string | null {
  const found = typeof value === "string" ? value.toWellFormed().replaceAll("\0", "").trim() : "";
  return found === "" ? null : found.slice(0, longest).toWellFormed();
}

function object(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value as Json : {};
}

function first<T>(candidates: readonly unknown[], read: (candidate: unknown) => T | null): T | null {
  for (const candidate of candidates) {
    const found = read(candidate);
    if (found !== null) return found;
  }
  return null;
}
