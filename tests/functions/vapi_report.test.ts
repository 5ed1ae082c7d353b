import assert from "node:assert/strict";
import { audioKind } from "../../supabase/functions/_shared/recordings/audio.ts";
import { UnreadableReport } from "../../supabase/functions/providers/provider.ts";
import { PROVIDERS } from "../../supabase/functions/providers/registry.ts";
import { readReport } from "../../supabase/functions/providers/vapi/report.ts";
import { moment } from "../../supabase/functions/_shared/http/requests.ts";
import { readSettings } from "../../supabase/functions/_shared/settings.ts";
import { CALL, PHONE, wav } from "./records.ts";
import { MESSAGES, report } from "./reports.ts";
import type { Json } from "./serving.ts";

const PATIENT = "99999999-8888-4777-8666-555555555555";
const A = "https://storage.vapi.ai/a.wav", B = "https://storage.vapi.ai/b.wav", C = "https://storage.vapi.ai/c.wav";

function best(artifact: Json, named: Json = {}) {
  const [source] = readReport(report(artifact, named).message).sources;
  return source && [source.url, source.channel, source.expiresAt];
}

Deno.test("readReport() finds the same things in payloads of every age", () => {
  const call = { id: CALL, metadata: { patientId: PATIENT } };
  const texts = {
    endedReason: "customer-ended-call",
    startedAt: "2026-11-20T09:00:00Z",
    endedAt: "2026-11-20T09:05:00Z",
  };
  const ages: Record<string, Json> = {
    "on artifact": {
      ...texts,
      call,
      customer: { number: PHONE },
      analysis: { summary: "Well." },
      artifact: { recordingUrl: A, messages: MESSAGES },
    },
    "on message": {
      ...texts,
      call,
      customer: { number: PHONE },
      summary: "Well.",
      recordingUrl: A,
      messages: MESSAGES,
      transcript: "User: hello",
    },
    "on call": {
      call: {
        ...call,
        ...texts,
        customer: { number: PHONE },
        analysis: { summary: "Well." },
        recordingUrl: A,
        messages: MESSAGES,
      },
    },
    "on call.artifact": {
      call: {
        ...call,
        ...texts,
        customer: { number: PHONE },
        summary: "Well.",
        artifact: { recordingUrl: A, messages: MESSAGES },
      },
    },
    "recording.url": {
      ...texts,
      call,
      customer: { number: PHONE },
      summary: "Well.",
      recording: { url: A },
      messages: MESSAGES,
    },
    "transcript.audioUrl": {
      ...texts,
      call,
      customer: { number: PHONE },
      summary: "Well.",
      transcript: { audioUrl: A },
      artifact: { messages: MESSAGES },
    },
  };
  for (const [age, message] of Object.entries(ages)) {
    assert.deepEqual(readReport(message), {
      providerCallId: CALL,
      patientId: PATIENT,
      phone: PHONE,
      startedAt: "2026-11-20T09:00:00.000Z",
      endedAt: "2026-11-20T09:05:00.000Z",
      endedReason: "customer-ended-call",
      summary: "Well.",
      sources: [{ url: A, channel: "mixed", expiresAt: null, isSigned: false }],
      speechIntervals: [[4, 5.5], [10.25, 12.501]],
      isRecordingConsented: null,
    }, age);
  }
});

Deno.test("readReport() prefers the patient's channel to both channels, and these to the mix", () => {
  const mono = { customerUrl: A, combinedUrl: C, assistantUrl: "https://storage.vapi.ai/agent.wav" };
  const all = { recordingUrl: C, stereoRecordingUrl: B, recording: { stereoUrl: B, mono } };
  const until = "2026-11-20T09:35:00.000Z";
  const signed = {
    presignedMonoUrl: `${C}?s`,
    presignedStereoUrl: `${B}?s`,
    presignedUrlsExpiresAt: until,
    presignedAssistantUrl: "https://storage.vapi.ai/agent.wav?s",
  };
  assert.deepEqual(best({ ...all, ...signed, presignedCustomerUrl: `${A}?s` }), [`${A}?s`, "customer", until]);
  assert.deepEqual(best({ ...all, ...signed }), [A, "customer", null]);
  assert.deepEqual(best({ ...signed, recordingUrl: C }), [`${B}?s`, "stereo", until]);
  assert.deepEqual(best({ stereoRecordingUrl: B, recordingUrl: C }), [B, "stereo", null]);
  assert.deepEqual(best({ recording: { stereoUrl: B } }), [B, "stereo", null]);
  assert.deepEqual(best({ presignedMonoUrl: `${C}?s`, recordingUrl: C }), [`${C}?s`, "mixed", null]);
  assert.deepEqual(best({ recording: { mono: { combinedUrl: C } } }), [C, "mixed", null]);
  assert.deepEqual(best({ recording: { mono: { assistantUrl: A } } }), undefined);
  assert.deepEqual(best({ recordingUrl: A }, { recordingUrl: B }), [A, "mixed", null], "what is on artifact is newer");
});

Deno.test("readReport() reads from a signed URL when it expires, where nothing else says so", () => {
  const address = `${A}?X-Amz-Date=20261120T090500Z&X-Amz-Expires=1800&X-Amz-Signature=s`;
  assert.deepEqual(best({ presignedCustomerUrl: address }), [address, "customer", "2026-11-20T09:35:00.000Z"]);
  assert.deepEqual(best({ presignedCustomerUrl: `${A}?X-Amz-Date=x&X-Amz-Expires=y` })?.[2], null);
});

Deno.test("readReport() ignores what is not a URL", () => {
  for (
    const url of [
      "",
      "storage.vapi.ai/a.wav",
      "file:///etc/passwd",
      "data:audio/wav,",
      "javascript:1",
      7,
      {},
      `https://a/${"b".repeat(9000)}`,
    ]
  ) {
    assert.deepEqual(best({ presignedCustomerUrl: url, recordingUrl: url }), undefined, String(url).slice(0, 30));
  }
});

Deno.test("readReport() finds the patient by metadata, then by the customer's id, then by a variable; uuids alone", () => {
  const [one, two, three] = ["1", "2", "3"].map((digit) => digit.repeat(8) + PATIENT.slice(8));
  const patient = (metadata: unknown, externalId: unknown, patientId: unknown) =>
    readReport({
      call: { id: CALL, metadata, assistantOverrides: { variableValues: { patientId } } },
      customer: { externalId },
    }).patientId;
  assert.equal(patient({ patientId: one }, two, three), one);
  assert.equal(patient({ patientId: "Ana" }, two, three), two);
  assert.equal(patient(null, "crm-17", three), three);
  assert.equal(patient([], 17, "none"), null);
  assert.equal(patient({ patientId: PATIENT.toUpperCase() }, null, null), PATIENT);
});

Deno.test("readReport() finds the patient in each place that the provider has for it", () => {
  const named = { patientId: PATIENT };
  const metadata = { metadata: named }, variables = { variableValues: named };
  const places: Json[] = [
    { call: { id: CALL, assistantOverrides: metadata } },
    { call: { id: CALL }, assistantOverrides: metadata },
    { call: { id: CALL, ...metadata } },
    { call: { id: CALL }, ...metadata },
    { call: { id: CALL, assistantOverrides: variables } },
    { call: { id: CALL }, assistantOverrides: variables },
    { call: { id: CALL }, artifact: variables },
    { call: { id: CALL, artifact: variables } },
    { call: { id: CALL }, customer: { assistantOverrides: metadata } },
    { call: { id: CALL, customer: { assistantOverrides: metadata } } },
    { call: { id: CALL }, customer: { assistantOverrides: variables } },
    { call: { id: CALL, customer: { assistantOverrides: variables } } },
  ];
  for (const place of places) assert.equal(readReport(place).patientId, PATIENT, JSON.stringify(place));
  const other = "0".repeat(8) + PATIENT.slice(8);
  assert.equal(
    readReport({ ...places[2], ...places[1], call: { id: CALL, metadata: { patientId: other } } }).patientId,
    PATIENT,
  );
});

Deno.test("readReport() reads phone numbers in international form, however they are grouped", () => {
  const phone = (number: unknown) => readReport({ call: { id: CALL }, customer: { number } }).phone;
  assert.deepEqual(["+351 210-000-001", "+351 (210) 000.001", PHONE].map(phone), [PHONE, PHONE, PHONE]);
  assert.deepEqual(
    ["210000001", "00351210000001", "+0351", "+1", "anonymous", "+3512100000012345", 351210000001, "sip:a@b"].map(
      phone,
    ),
    Array(8).fill(null),
  );
});

const said = (secondsFromStart: unknown, more: Json, role = "user") => ({ role, secondsFromStart, ...more });
const intervals = (messages: unknown, named: Json = {}) =>
  readReport(report({ messages }, named).message).speechIntervals;

Deno.test("readReport() reads only the patient's words, in seconds, whole or not", () => {
  assert.deepEqual(intervals([said(3, { duration: 1000 }), said(1.5, { duration: 250.5 })]), [[1.5, 1.751], [3, 4]]);
  assert.deepEqual(intervals([said(2, { time: 1000, endTime: 2500 })]), [[2, 3.5]]);
  assert.deepEqual(intervals([said("2", { time: "1000", endTime: "2500.0" })]), [[2, 3.5]]);
  assert.equal(intervals([said(2, {}), said(undefined, { duration: 1000 })]), null, "words whose times are not known");
  assert.equal(intervals([]), null);
  assert.equal(intervals(undefined), null);
  assert.deepEqual(
    intervals([
      said(-1, { duration: 500 }),
      said(5, { duration: -1 }),
      said(5, { duration: 0 }),
      said(1e9, { duration: 1 }),
      said(7, { duration: 1000 }),
    ]),
    [[7, 8]],
  );
});

Deno.test("readReport() prefers a message's times to its duration", () => {
  const times = { time: 1763629204000, endTime: 1763629211000 };
  for (const duration of [undefined, null, 7, 7000, 3, "7", {}, -7, 1e12]) {
    assert.deepEqual(intervals([said(6, { ...times, duration })]), [[6, 13]], String(duration));
  }
  const backwards = { time: times.endTime, endTime: times.time };
  assert.deepEqual(intervals([said(6, { ...backwards, duration: 7000 })]), [[6, 13]]);
});

Deno.test("readReport() tells durations in seconds from durations in milliseconds, and leaves out those in doubt", () => {
  const agent = (start: number, more: Json) => said(start, more, "bot");
  const measured = { time: 1763629200000, endTime: 1763629201500 };
  assert.deepEqual(intervals([said(6, { duration: 7 })]), [[6, 13]], "nobody speaks for 7 ms");
  assert.deepEqual(intervals([said(6, { duration: 7000 })]), [[6, 13]], "nor for 7000 s");
  assert.deepEqual(intervals([said(6, { duration: 300 }), agent(8, {})]), [[6, 6.3]], "the next one begins after 2 s");
  assert.equal(intervals([said(6, { duration: 100 }), agent(200, {})]), null, "100 s or 100 ms");
  const unclear = [said(6, { duration: 100 }), agent(200, {})];
  assert.deepEqual(
    intervals([agent(1, { ...measured, duration: 1.5 }), ...unclear]),
    [[6, 106]],
    "as another's times tell",
  );
  assert.deepEqual(intervals([agent(1, { ...measured, duration: 1500 }), ...unclear]), [[6, 6.1]]);
  assert.equal(intervals([said(1, { duration: 5 }), said(10, { duration: 5000 })]), null, "they contradict each other");
  const mixed = [said(1, { duration: 5 }), said(10, { duration: 5000 }), said(20, { time: 0, endTime: 1000 })];
  assert.deepEqual(intervals(mixed), [[20, 21]]);
});

Deno.test("readReport() says that the patient was silent only where every message is somebody else's", () => {
  const agent = { role: "bot", secondsFromStart: 1, time: 0, endTime: 1000 };
  const system = { role: "system", secondsFromStart: 0 };
  assert.deepEqual(intervals([system, agent, { role: "assistant" }, { role: "tool_calls" }]), []);
  assert.equal(intervals([agent, { role: "user" }]), null, "words without times");
  assert.equal(intervals([agent, said(5, { time: 5000, endTime: 5000 })]), null, "words without a length");
  for (const unknown of [{ role: "speaker" }, { role: 7 }, {}, null, 7, "user"]) {
    assert.equal(intervals([agent, unknown]), null, JSON.stringify(unknown));
  }
  assert.equal(intervals([agent], { messages: [agent, { role: "user" }] }), null, "an older place has words");
  const words = said(5, { time: 5000, endTime: 6000 });
  assert.deepEqual(intervals([agent], { call: { id: CALL, messages: [words] } }), [[5, 6]]);
});

Deno.test("readReport() tells consent that was given from consent that was requested", () => {
  const consent = (compliance: unknown) => readReport({ call: { id: CALL }, compliance }).isRecordingConsented;
  assert.equal(consent({ recordingConsent: { type: "verbal", grantedAt: "2026-11-20T09:00:10Z" } }), true);
  assert.equal(consent({ recordingConsent: { type: "verbal" } }), false);
  assert.equal(consent({ recordingConsent: { type: "stay-on-line", grantedAt: "no" } }), false);
  for (const nothing of [undefined, null, {}, { recordingConsent: null }, "yes", []]) {
    assert.equal(consent(nothing), null);
  }
});

Deno.test("readReport() cuts text that is too long, and drops characters that PostgreSQL cannot store", () => {
  const summary = (text: string) => readReport({ call: { id: CALL }, summary: text }).summary;
  assert.equal(summary("x".repeat(20_000))?.length, 10_000);
  assert.equal(summary("a\0b"), "ab");
  assert.equal(summary(`${"x".repeat(9_999)}😀`), `${"x".repeat(9_999)}\ufffd`);
  assert.equal(summary(" "), null);
});

Deno.test("readReport() refuses a report that names no call", () => {
  for (const id of [undefined, null, "", 7, "a b", "a/b", "..", "a?b", "a\n", "é", "a".repeat(101)]) {
    assert.throws(() => readReport({ call: { id } }), UnreadableReport, String(id));
  }
});

Deno.test("moment() reads ISO times and epoch milliseconds, of this century", () => {
  assert.equal(moment("2026-11-20T09:00:00+01:00"), "2026-11-20T08:00:00.000Z");
  assert.equal(moment("2026-11-20 09:00:00.5+00"), "2026-11-20T09:00:00.500Z");
  assert.equal(moment(1763629200000), "2025-11-20T09:00:00.000Z");
  for (
    const none of [
      "",
      "today",
      "2026-13-45T00:00:00Z",
      "1970-01-01T00:00:00Z",
      1763629200,
      NaN,
      Infinity,
      null,
      {},
      "2026",
    ]
  ) {
    assert.equal(moment(none), null, String(none));
  }
});

Deno.test("audioKind() recognises a recording by its bytes", () => {
  const bytes = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));
  const kinds: [Uint8Array, string | undefined][] = [
    [wav(), "wav"],
    [bytes("RF64....WAVEds64"), "wav"],
    [bytes("OggS\0"), "ogg"],
    [bytes("fLaC\0"), "flac"],
    [bytes("ID3\x04"), "mp3"],
    [bytes("\xff\xfb\x90\x64"), "mp3"],
    [bytes("\xff\xf3\x44\xc4"), "mp3"],
    [bytes("\0\0\0\x20ftypM4A "), "m4a"],
    [bytes("\x1a\x45\xdf\xa3\x01"), "webm"],
    [bytes(""), undefined],
    [bytes("<html>"), undefined],
    [bytes('{"message":"Not Found"}'), undefined],
    [bytes("RIFF....AVI LIST"), undefined],
    [bytes("%PDF-1.7"), undefined],
    [bytes("\xff\xff\xff\xff"), undefined],
    [bytes("\xff\xd8\xff\xe0"), undefined],
    [bytes("\x7fELF"), undefined],
    [bytes("PK\x03\x04"), undefined],
  ];
  for (const [content, extension] of kinds) assert.equal(audioKind(content)?.extension, extension);
});

Deno.test("readSettings() names the setting that is missing or wrong", () => {
  const settings = (named: Record<string, string>) => readSettings(new Map(Object.entries(named)), PROVIDERS);
  const given = { SUPABASE_URL: "https://project.supabase.co", SUPABASE_SECRET_KEY: "key" };
  assert.throws(() => settings({ SUPABASE_SECRET_KEY: "key" }), /SUPABASE_URL is not set/);
  assert.throws(() => settings({ SUPABASE_URL: given.SUPABASE_URL }), /SUPABASE_SECRET_KEY is not set/);
  assert.throws(() => settings({ ...given, SUPABASE_URL: "project" }), /SUPABASE_URL is not a URL/);
  assert.throws(
    () => settings({ ...given, RETROCARE_FETCH_SECONDS: "soon" }),
    /RETROCARE_FETCH_SECONDS is not a number/,
  );
  assert.equal(settings({ ...given, SUPABASE_SECRET_KEY: "", SUPABASE_SERVICE_ROLE_KEY: "old" }).supabaseKey, "old");
  assert.equal(
    settings({ ...given, SUPABASE_SECRET_KEY: "", SUPABASE_SECRET_KEYS: '{"default":"new"}' }).supabaseKey,
    "new",
  );
  assert.throws(
    () => settings({ ...given, SUPABASE_SECRET_KEY: "", SUPABASE_SECRET_KEYS: "{" }),
    /SUPABASE_SECRET_KEY is not set/,
  );
});

Deno.test("readSettings() allows the project, the provider's API and its storage; RETROCARE_FETCH_HOSTS replaces all but the API", () => {
  const given = { SUPABASE_URL: "https://project.supabase.co", SUPABASE_SECRET_KEY: "key" };
  const hosts = (named: Record<string, string>) =>
    readSettings(new Map(Object.entries({ ...given, ...named })), PROVIDERS).fetchHosts;
  assert.deepEqual(hosts({}), ["api.vapi.ai", "project.supabase.co", "storage.vapi.ai", "*.r2.cloudflarestorage.com"]);
  assert.deepEqual(hosts({ RETROCARE_FETCH_HOSTS: "Bucket.example, *.Other.example" }), [
    "api.vapi.ai",
    "bucket.example",
    "*.other.example",
  ]);
});
