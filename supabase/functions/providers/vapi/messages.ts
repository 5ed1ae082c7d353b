/**
 * When the patient spoke, from the messages of a call.
 *
 * `secondsFromStart` is in seconds, `time` and `endTime` in milliseconds. `duration` is in seconds by Vapi's schema,
 * but in milliseconds in some real payloads: it is used only where the times are missing and its unit can be inferred.
 * A message without a length is left out. If every message can be read and none is the patient's, the patient was
 * silent: the list is empty.
 */
import type { Interval } from "../provider.ts";

type Json = Record<string, unknown>;

const PATIENT = ["user", "customer"];
const OTHERS = ["system", "assistant", "bot", "tool", "tool_calls", "tool_call_result", "function", "developer"];
const LONGEST_CALL_SECONDS = 24 * 3600;
const MOST_INTERVALS = 5_000;
/** Nobody speaks for less than 50 ms, or for more than 600 s at a stretch: a duration beyond these shows its unit. */
const SHORTEST_MILLISECONDS = 50;
const LONGEST_SECONDS = 600;
/** How long before the end of a message the next one may begin. */
const OVERLAP_SECONDS = 1;

/** Read the patient's intervals from the places where messages may stand; null: not known. */
export function speechIntervals(places: readonly unknown[]): Interval[] | null {
  const lists = places.filter((place): place is unknown[] => Array.isArray(place) && place.length > 0)
    .map((place) => place.map(message));
  for (const list of lists) {
    const found = intervalsOf(list);
    if (found.length > 0) return found;
  }
  const isSilent = lists.length > 0 &&
    lists.flat().every(({ role }) => typeof role === "string" && OTHERS.includes(role));
  return isSilent ? [] : null;
}

function intervalsOf(messages: readonly Json[]): Interval[] {
  const timed = messages.filter((one) => startOf(one) !== null);
  const secondsPerUnit = unitOf(timed);
  return timed.filter(({ role }) => PATIENT.includes(String(role))).slice(0, MOST_INTERVALS)
    .map((one) => {
      const start = startOf(one)!;
      const duration = positive(one.duration);
      const length = measured(one) ?? (duration !== null && secondsPerUnit !== null ? duration * secondsPerUnit : null);
      return length === null ? null : [rounded(start), rounded(start + length)] as const;
    })
    .filter((interval) => interval !== null)
    .filter(([start, end]) => end > start && end <= LONGEST_CALL_SECONDS)
    .sort(([one], [other]) => one - other);
}

/**
 * The unit of `duration` in this call, in seconds; null where its messages do not show it, or contradict each other.
 */
function unitOf(messages: readonly Json[]): 1 | 0.001 | null {
  const units = new Set<1 | 0.001>();
  let next = Infinity;
  let start = Infinity;
  for (const one of messages.toSorted((one, other) => startOf(other)! - startOf(one)!)) {
    if (startOf(one)! < start) [start, next] = [startOf(one)!, start];
    const unit = evidence(one, next - start);
    if (unit !== null) units.add(unit);
  }
  return units.size === 1 ? [...units][0]! : null;
}

/** The unit that one message shows: by its own times, else by what is plausible, else by when the next one begins. */
function evidence(one: Json, secondsToNext: number): 1 | 0.001 | null {
  const duration = positive(one.duration);
  if (duration === null) return null;
  const length = measured(one);
  if (length !== null) {
    const isNear = (seconds: number) => Math.abs(seconds - length) <= Math.max(0.1 * length, 0.05);
    if (isNear(duration / 1000) === isNear(duration)) return null;
    return isNear(duration) ? 1 : 0.001;
  }
  if (duration < SHORTEST_MILLISECONDS) return 1;
  return duration > Math.min(LONGEST_SECONDS, secondsToNext + OVERLAP_SECONDS) ? 0.001 : null;
}

/** `endTime` less `time`, in seconds. */
function measured(one: Json): number | null {
  const [time, endTime] = [number(one.time), number(one.endTime)];
  return time !== null && endTime !== null && endTime > time ? (endTime - time) / 1000 : null;
}

function startOf(one: Json): number | null {
  const start = number(one.secondsFromStart);
  return start !== null && start >= 0 && start <= LONGEST_CALL_SECONDS ? start : null;
}

function positive(value: unknown): number | null {
  const found = number(value);
  return found !== null && found > 0 ? found : null;
}

/** A number, also where it is written as text. */
function number(value: unknown): number | null {
  const found = typeof value === "string" && /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value;
  return typeof found === "number" && Number.isFinite(found) ? found : null;
}

function message(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value as Json : {};
}

function rounded(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}
