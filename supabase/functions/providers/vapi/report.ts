/**
 * Reading Vapi's report of a finished call.
 *
 * The same facts stand in different places, by the age of the payload: on `message.artifact`, on `message`, on
 * `message.call.artifact`, on `message.call`. They are looked up in this order, and the first value of the expected
 * type is taken. A value of another type counts as absent, so that no call is lost for an odd field. Only a report
 * without the id of its call is refused.
 */
import { isUuid, moment } from "../../_shared/http/requests.ts";
import { type CallReport, type Source, type SourceChannel, UnreadableReport } from "../provider.ts";
import { speechIntervals } from "./messages.ts";

type Json = Record<string, unknown>;

const CALL_ID = /^[A-Za-z0-9_-]{1,100}$/;
const LONGEST_SUMMARY = 10_000;

/** Read the `message` of a webhook, or `{call}` for a call that the API gave. Raises an UnreadableReport. */
export function readReport(message: Json): CallReport {
  const call = object(message.call);
  const places = [object(message.artifact), message, object(call.artifact), call];
  const customers = [object(message.customer), object(call.customer)];
  const overrides = [call, message, ...customers].map((place) => object(place.assistantOverrides));
  const providerCallId = first([call.id, message.callId], callId);
  if (providerCallId === null) {
    throw new UnreadableReport("The report names no call with an id of letters, digits, - and _, at most 100 of them.");
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
  const isUrl = typeof value === "string" && value.length <= 8000 && /^https?:\/\/\S+$/i.test(value);
  return isUrl ? { url: value, channel, expiresAt: expiresAt ?? expiryOf(value), isSigned } : null;
}

/** When a URL with an S3 signature expires; null where it does not say. */
function expiryOf(url: string): string | null {
  const query = new URLSearchParams(url.split("?")[1] ?? "");
  const date = /^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})Z$/.exec(query.get("X-Amz-Date") ?? "");
  const seconds = Number(query.get("X-Amz-Expires") ?? NaN);
  if (!date || !Number.isFinite(seconds)) return null;
  const [year = 0, month = 0, ...rest] = date.slice(1).map(Number);
  return moment(Date.UTC(year, month - 1, ...rest) + 1000 * seconds);
}

/** An id becomes part of URLs and paths: one that is malformed is refused, not repaired. */
function callId(value: unknown): string | null {
  return typeof value === "string" && CALL_ID.test(value) ? value : null;
}

function consent(value: unknown): boolean | null {
  return typeof value === "object" && value !== null ? moment((value as Json).grantedAt) !== null : null;
}

/** A phone number in international form; spaces and hyphens are removed. */
function phoneNumber(value: unknown): string | null {
  const written = typeof value === "string" ? value.replace(/[\s().-]/g, "") : "";
  return /^\+[1-9][0-9]{5,14}$/.test(written) ? written : null;
}

/** Text that PostgreSQL can store, cut to a length. */
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
