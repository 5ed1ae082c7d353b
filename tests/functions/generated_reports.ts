/**
 * End-of-call reports as they might come one day: of the shape that the provider publishes, with fields that are
 * absent, null, of another type, in another unit, or in another of the places where payloads of some age have them.
 *
 * What a report says is changed by taking away or replacing, never by moving. So whatever identifies something here
 * (the call, the patient, an address) and is still to be found in its text is in its place.
 */
import type { Json } from "./serving.ts";

export interface Names {
  readonly callId: string;
  readonly patientId: string;
  readonly phone: string;
  /** The provider's own number, not the patient's. */
  readonly ownPhone: string;
}

export interface Generated {
  readonly message: Json;
  /** When the patient really spoke: [start, end] in seconds. */
  readonly spoken: readonly (readonly [number, number])[];
}

export const JUDGED = ["customer-ended-call", "assistant-ended-call", "silence-timed-out", "vonage-completed"];
export const MACHINES = [
  "voicemail",
  "assistant-ended-call-because-of-voicemail-detected",
  "customer-answering-machine-detected",
];
export const UNHEARD_OF = ["ended-by-moonlight", "CALL.IN-PROGRESS.SOMETHING", "\u{1f4de}", "x".repeat(2_000), "a\0b"];

/** Values to put in place of others; none names a call, a person or a URL. */
const JUNK: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  7,
  1e308,
  "",
  "7",
  "text",
  "a\0b",
  "\ud800",
  "2026-99-99T00:00:00Z",
  "2099-01-01T00:00:00Z",
  "https://",
  "ftp://storage.vapi.ai/x.wav",
  [],
  {},
  [[null]],
  { value: "text" },
  Array(20_000).fill(0),
  Array(2_000).fill({}),
  "x".repeat(50_000),
];

/** Generate a report. The same random numbers make the same report. */
export function generated(random: () => number, names: Names): Generated {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const maybe = (probability: number) => random() < probability;
  const some = (from: Json) => Object.fromEntries(Object.entries(from).filter(() => maybe(0.6)));

  const begun = Date.now() - 3600_000;
  const unit = pick([1, 1000]);
  const isText = maybe(0.1);
  const isTimed = maybe(0.7);
  const amount = (value: number) => isText ? String(value) : value;
  const spoken: [number, number][] = [];
  const messages: Json[] = [{ role: "system", message: "Be kind.", time: begun, secondsFromStart: 0 }];
  for (let at = 1, turn = 0; turn < 6; turn++) {
    const seconds = Math.round(500 + 6_000 * random()) / 1000;
    const role = turn % 2 === 0 ? pick(["bot", "assistant"]) : "user";
    if (role === "user") spoken.push([at, at + seconds]);
    messages.push({
      role,
      message: "Words.",
      ...isTimed ? { time: amount(begun + 1000 * at), endTime: amount(begun + 1000 * (at + seconds)) } : {},
      secondsFromStart: amount(at),
      ...maybe(0.7) ? { duration: amount(seconds * unit) } : {},
      ...maybe(0.2) ? { metadata: { wordLevelConfidence: Array(50).fill({ word: "Words", confidence: 0.9 }) } } : {},
    });
    at += seconds + 1;
  }

  const address = (kind: string, number: number) => `https://recordings.invalid/${names.callId}/${kind}-${number}.wav`;
  const isMixedOnly = maybe(0.2);
  const channels: Json = {
    presignedCustomerUrl: address("customer", 1),
    presignedStereoUrl: address("stereo", 1),
    stereoRecordingUrl: address("stereo", 2),
  };
  const recordings = some({
    ...isMixedOnly ? {} : channels,
    presignedMonoUrl: address("mixed", 1),
    presignedUrlsExpiresAt: new Date(Date.now() + 1_800_000).toISOString(),
    recordingUrl: address("mixed", 2),
    recording: {
      url: address("mixed", 3),
      ...isMixedOnly ? {} : { stereoUrl: address("stereo", 3) },
      mono: {
        combinedUrl: address("mixed", 4),
        assistantUrl: "https://agent.invalid/agent.wav",
        ...isMixedOnly ? {} : { customerUrl: address("customer", 2) },
      },
    },
  });

  const named = { patientId: names.patientId };
  const customer = some({
    number: names.phone,
    name: "Ana",
    externalId: pick([names.patientId, "crm-17"]),
    numberE164CheckEnabled: true,
    assistantOverrides: pick([{ metadata: named }, { variableValues: named }, {}]),
  });
  const found = {
    endedReason: pick([...JUDGED, ...JUDGED, ...MACHINES, ...UNHEARD_OF]),
    ...some({
      startedAt: pick([new Date(begun).toISOString(), begun, begun / 1000]),
      endedAt: pick([new Date(begun + 60_000).toISOString(), begun + 60_000]),
      analysis: { summary: "Well.", structuredData: {}, successEvaluation: "true" },
      compliance: { recordingConsent: { type: "verbal", grantedAt: new Date(begun).toISOString() } },
      customer,
      assistantOverrides: pick([{ metadata: named }, { variableValues: named }, {}]),
      cost: 0.12,
      costs: [{ type: "transport", minutes: 1, cost: 0.01 }],
      phoneNumber: { number: names.ownPhone },
    }),
  };
  const artifact = {
    messages,
    ...recordings,
    ...some({
      transcript: "AI: Words.\nUser: Words.",
      messagesOpenAIFormatted: [{ role: "user", content: "Words." }],
      variableValues: pick([named, { patientId: "none" }, {}]),
      performanceMetrics: { turnLatencies: [{ turnLatency: 900 }] },
    }),
  };
  const call = { id: names.callId, orgId: crypto.randomUUID(), type: "outboundPhoneCall", status: "ended" };
  const type = "end-of-call-report";
  const message: Json = structuredClone(pick<Json>([
    { type, timestamp: Date.now(), ...found, artifact, call },
    { type, ...found, ...artifact, call },
    { type, call: { ...call, ...found, artifact } },
    { type, call: { ...call, ...found, ...artifact } },
  ]));
  for (let times = Math.floor(4 * random()); times > 0; times--) spoil(message, random);
  return { message, spoken };
}

/** Remove a field, wherever it is, or replace it by junk. */
function spoil(message: Json, random: () => number): void {
  let within: Json = message;
  for (;;) {
    const keys = Object.keys(within).filter((key) => within !== message || key !== "type");
    const key = keys[Math.floor(random() * keys.length)];
    if (key === undefined) return;
    const value = within[key];
    if (typeof value === "object" && value !== null && random() < 0.75) {
      within = value as Json;
      continue;
    }
    if (random() < 0.3) delete within[key];
    else within[key] = structuredClone(JUNK[Math.floor(random() * JUNK.length)]);
    return;
  }
}
