/** What happens on the day that is played, decided before it begins: so it is known what must have become of each call. */
import { type Kind } from "./vapi.ts";

export interface Size {
  readonly calls: number;
  readonly patients: number;
  readonly seed: number;
}

/** How the provider behaves about a call. */
export type Delivery = "once" | "twice" | "lost" | "expired" | "without address" | "late recording" | "stereo";

export interface PlannedCall {
  readonly id: string;
  readonly patient: number;
  /** Minutes after midnight at which it begins. */
  readonly minute: number;
  readonly voice: "usual" | "changed" | "nobody";
  readonly endedReason: string;
  readonly delivery: Delivery;
  /** When the provider reports it, in minutes after midnight; empty if the report is lost. */
  readonly reports: readonly number[];
  /** From when on the provider has the recording. */
  readonly recordedAt: number;
  readonly kind: Kind;
  /** Which of the prepared recordings. */
  readonly number: number;
}

const NOT_JUDGED = ["voicemail", "customer-did-not-answer", "customer-busy", "pipeline-error-openai-llm-failed"];
const DELIVERIES: readonly Delivery[] = [
  "once",
  "twice",
  "lost",
  "expired",
  "without address",
  "late recording",
  "stereo",
];

const FIRST_MINUTE = 7 * 60;
const LAST_MINUTE = 21 * 60;
/** Shortly before the gateway refuses, so that emergencies fall into that hour. */
const FIRST_CHANGED_MINUTE = 13 * 60 + 30;

/** The day of each patient: a usual call in the morning, then others; some have an episode from some hour on. */
export function plan(size: Size): PlannedCall[] {
  const random = generator(size.seed);
  const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
  const used = { usual: 0, changed: 0, stereo: 0 };
  const calls: PlannedCall[] = [];
  for (let n = 0; n < size.calls; n++) {
    const patient = n % size.patients;
    const isFirst = n < size.patients;
    const minute = isFirst
      ? FIRST_MINUTE + Math.floor(random() * 60)
      : FIRST_MINUTE + 120 + Math.floor(random() * (LAST_MINUTE - FIRST_MINUTE - 120));
    const isAnswered = isFirst || random() < 0.8;
    const isChanged = isAnswered && hasEpisode(patient) && minute >= FIRST_CHANGED_MINUTE;
    const quarter = Math.floor(size.calls / 4);
    const isStereo = isAnswered && !isChanged && !isFirst && used.stereo < quarter && random() < 0.2;
    const delivery = isFirst ? "once" : isStereo ? "stereo" : pick(DELIVERIES.slice(0, 6));
    const end = minute + 5;
    const reported = end + Math.floor(random() * 20);
    const voice = !isAnswered ? "nobody" : isChanged && used.changed < quarter ? "changed" : "usual";
    calls.push({
      id: uuid(random),
      patient,
      minute,
      voice,
      endedReason: isAnswered ? pick(["customer-ended-call", "assistant-ended-call"]) : pick(NOT_JUDGED),
      delivery,
      reports: delivery === "lost"
        ? []
        : delivery === "twice"
        ? [reported, reported, reported + 1 + Math.floor(random() * 90)]
        : [reported],
      recordedAt: delivery === "late recording" ? reported + 5 + Math.floor(random() * 90) : end,
      kind: isStereo ? "stereo" : "customer",
      number: isStereo ? used.stereo++ : voice === "changed" ? used.changed++ : used.usual++,
    });
  }
  return calls;
}

/** Every third patient's voice changes on that day. */
export function hasEpisode(patient: number): boolean {
  return patient % 3 === 0;
}

/** The same numbers for the same seed (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function uuid(random: () => number): string {
  const hex = () => Math.floor(random() * 16).toString(16);
  return "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx".replace(/x/g, hex);
}
