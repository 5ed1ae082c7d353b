import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { handle } from "../../supabase/functions/call-webhook/index.ts";
import { backend } from "./backend.ts";
import { CALL, PHONE, Records, wav } from "./records.ts";
import { MESSAGES, report } from "./reports.ts";
import {
  assertDiscreet,
  Background,
  environment,
  listenToLines,
  post,
  type Reply,
  serve,
  type Served,
} from "./serving.ts";
import { FakeVapi } from "./vapi.ts";

const SECRET = "the-webhook-secret-of-a-test";
const HMAC_SECRET = "the-signing-secret-of-a-test";
const BEARER = { authorization: `Bearer ${SECRET}` };

const project = await backend();
const records = new Records(project);
const lines = listenToLines();

interface Webhook extends Served {
  readonly background: Background;
}

function webhook(named: Record<string, string> = {}): Webhook {
  const background = new Background();
  const settings = environment(project, { VAPI_WEBHOOK_SECRET: SECRET, VAPI_HMAC_SECRET: HMAC_SECRET, ...named });
  const served = serve((request) => handle(request, settings, background.waitUntil));
  return {
    ...served,
    url: `${served.url}/call-webhook/vapi`,
    background,
    [Symbol.asyncDispose]: async () => {
      await background.settled();
      await served[Symbol.asyncDispose]();
    },
  };
}

function send(to: Served, payload: unknown, init: RequestInit = {}): Promise<Reply> {
  return post(to.url, payload, { headers: BEARER, ...init });
}

function signed(body: string, timestamp: string | number = Date.now(), secret = HMAC_SECRET): Record<string, string> {
  const signature = createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex");
  return { "x-timestamp": String(timestamp), "x-signature": signature };
}

Deno.test("handle() stores a report as a row, and collects its recording after the response", async () => {
  await project.fresh();
  const patient = await records.patient();
  await using vapi = new FakeVapi();
  await using hook = webhook(vapi.settings);
  const recording = wav();
  const { status, body } = await send(hook, report({ presignedCustomerUrl: vapi.sign(recording) }));
  assert.equal(status, 200);
  assert.deepEqual([body.received, body.disposition, body.is_new], [true, "judge", true]);
  await hook.background.settled();
  const [call, ...others] = await records.calls();
  assert.deepEqual(others, []);
  assert.equal(call!.id, body.call_log_id);
  assert.deepEqual(
    [
      call!.patient_id,
      call!.provider,
      call!.provider_call_id,
      call!.ended_reason,
      call!.summary,
      call!.recording_channel,
    ],
    [patient, "vapi", CALL, "customer-ended-call", "Ana felt well.", "customer"],
  );
  assert.equal((call!.timestamp as Date).toISOString(), "2026-11-20T09:00:00.000Z");
  assert.equal(call!.recording_ref, `storage:voice-recordings/${patient}/${call!.id}.wav`);
  assert.equal(call!.recording_source_url, null);
  assert.deepEqual(await records.stored(call!.recording_ref), recording);
  assert.equal((await records.checks()).length, 0, "no encoder is registered, so nothing judges yet");
});

Deno.test("handle() responds before the recording is collected", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  let release = () => {};
  const held = new Promise<void>((resolve) => release = resolve);
  vapi.instead = async () => {
    await held;
    return undefined;
  };
  vapi.add(CALL, { customer: wav() });
  await using hook = webhook(vapi.settings);
  assert.equal((await send(hook, report())).status, 200);
  assert.equal((await records.calls())[0]!.recording_ref, null);
  release();
  await hook.background.settled();
  assert.notEqual((await records.calls())[0]!.recording_ref, null);
});

Deno.test("handle() stores one row for a report that comes ten times at once and once more later", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  await using hook = webhook(vapi.settings);
  const payloads = Array.from({ length: 10 }, () => report({ presignedCustomerUrl: vapi.sign(wav()) }));
  const answers = await Promise.all(payloads.map((payload) => send(hook, payload)));
  assert.ok(answers.every(({ status }) => status === 200));
  await hook.background.settled();
  assert.equal((await send(hook, payloads[0])).body.is_new, false);
  await hook.background.settled();
  assert.equal(answers.filter(({ body }) => body.is_new).length, 1);
  assert.equal((await records.calls()).length, 1);
  assert.deepEqual((await records.recordings()).map(({ state }) => state), ["stored"]);
});

Deno.test("handle() accepts the same signed body again within its window, and writes nothing more", async () => {
  await project.fresh();
  await records.patient();
  await using hook = webhook();
  const body = JSON.stringify(report());
  const headers = signed(body);
  for (let times = 0; times < 3; times++) assert.equal((await send(hook, body, { headers })).status, 200);
  assert.equal((await records.calls()).length, 1);
});

Deno.test("handle() authenticates the provider by each of the ways that it has", async () => {
  await project.fresh();
  await records.patient();
  await using hook = webhook();
  const body = JSON.stringify(report());
  const seconds = Math.floor(Date.now() / 1000);
  const { "x-signature": signature } = signed(body, seconds) as { "x-signature": string };
  const ways: Record<string, string>[] = [
    BEARER,
    { authorization: `bearer  ${SECRET}` },
    { "x-vapi-secret": SECRET },
    signed(body),
    signed(body, seconds),
    { ...signed(body, seconds), "x-signature": `sha256=${signature}` },
    { ...signed(body, seconds), "x-signature": signature.toUpperCase() },
    signed(body, Date.now() - 4 * 60_000),
    { ...signed(body), authorization: "Bearer of something else" },
  ];
  for (const headers of ways) assert.equal((await send(hook, body, { headers })).status, 200, JSON.stringify(headers));
});

const REPORT = JSON.stringify(report());
const now = Date.now();
const deep = "[".repeat(200_000);

/** Requests that are forged or broken, with the status and code of the refusal. */
const REFUSED: Record<string, { init: RequestInit; payload?: unknown; expected: [status: number, code: string] }> = {
  "no secret": { init: { headers: {} }, expected: [401, "unauthorized"] },
  "a wrong bearer": { init: { headers: { authorization: "Bearer wrong" } }, expected: [401, "unauthorized"] },
  "an empty bearer": { init: { headers: { authorization: "Bearer " } }, expected: [401, "unauthorized"] },
  "the bearer's beginning": {
    init: { headers: { authorization: `Bearer ${SECRET.slice(0, -1)}` } },
    expected: [401, "unauthorized"],
  },
  "the bearer and more": { init: { headers: { authorization: `Bearer ${SECRET}x` } }, expected: [401, "unauthorized"] },
  "the bearer in capitals": {
    init: { headers: { authorization: `Bearer ${SECRET.toUpperCase()}` } },
    expected: [401, "unauthorized"],
  },
  "the secret without Bearer": { init: { headers: { authorization: SECRET } }, expected: [401, "unauthorized"] },
  "the secret as Basic": {
    init: { headers: { authorization: `Basic ${btoa(`:${SECRET}`)}` } },
    expected: [401, "unauthorized"],
  },
  "the signing secret as bearer": {
    init: { headers: { authorization: `Bearer ${HMAC_SECRET}` } },
    expected: [401, "unauthorized"],
  },
  "a wrong X-Vapi-Secret": { init: { headers: { "x-vapi-secret": "wrong" } }, expected: [401, "unauthorized"] },
  "an empty X-Vapi-Secret": { init: { headers: { "x-vapi-secret": "" } }, expected: [401, "unauthorized"] },
  "the project's key": {
    init: { headers: { authorization: `Bearer ${project.serviceKey}`, apikey: project.serviceKey } },
    expected: [401, "unauthorized"],
  },
  "the functions' key": {
    init: { headers: { authorization: "Bearer the-functions-key" } },
    expected: [401, "unauthorized"],
  },
  "a signature with another secret": {
    init: { headers: signed(REPORT, now, SECRET) },
    expected: [401, "unauthorized"],
  },
  "a signature with the secret undefined": {
    init: { headers: signed(REPORT, now, "undefined") },
    expected: [401, "unauthorized"],
  },
  "a signature of another body": { init: { headers: signed(`${REPORT} `, now) }, expected: [401, "unauthorized"] },
  "a signature of the body alone": {
    init: {
      headers: {
        ...signed(REPORT, now),
        "x-signature": createHmac("sha256", HMAC_SECRET).update(REPORT).digest("hex"),
      },
    },
    expected: [401, "unauthorized"],
  },
  "a signature of another moment": {
    init: { headers: { ...signed(REPORT, now), "x-timestamp": String(now + 1) } },
    expected: [401, "unauthorized"],
  },
  "a signature cut short": {
    init: { headers: { ...signed(REPORT, now), "x-signature": signed(REPORT, now)["x-signature"]!.slice(0, 32) } },
    expected: [401, "unauthorized"],
  },
  "an empty signature": {
    init: { headers: { ...signed(REPORT, now), "x-signature": "" } },
    expected: [401, "unauthorized"],
  },
  "a signature that is only a prefix": {
    init: { headers: { ...signed(REPORT, now), "x-signature": "sha256=" } },
    expected: [401, "unauthorized"],
  },
  "a signature in base64": {
    init: {
      headers: {
        ...signed(REPORT, now),
        "x-signature": createHmac("sha256", HMAC_SECRET).update(`${now}.${REPORT}`).digest("base64"),
      },
    },
    expected: [401, "unauthorized"],
  },
  "a signature with SHA-1": {
    init: {
      headers: {
        ...signed(REPORT, now),
        "x-signature": createHmac("sha1", HMAC_SECRET).update(`${now}.${REPORT}`).digest("hex"),
      },
    },
    expected: [401, "unauthorized"],
  },
  "a signature without a timestamp": {
    init: { headers: { "x-signature": signed(REPORT, now)["x-signature"]! } },
    expected: [401, "unauthorized"],
  },
  "a timestamp without a signature": {
    init: { headers: { "x-timestamp": String(now) } },
    expected: [401, "unauthorized"],
  },
  "a replay after six minutes": {
    init: { headers: signed(REPORT, now - 6 * 60_000) },
    expected: [401, "unauthorized"],
  },
  "a replay after a day, in seconds": {
    init: { headers: signed(REPORT, Math.floor(now / 1000) - 86_400) },
    expected: [401, "unauthorized"],
  },
  "a signature of tomorrow": { init: { headers: signed(REPORT, now + 86_400_000) }, expected: [401, "unauthorized"] },
  "a signed timestamp that is none": { init: { headers: signed(REPORT, "now") }, expected: [401, "unauthorized"] },
  "a signed timestamp that is negative": { init: { headers: signed(REPORT, -now) }, expected: [401, "unauthorized"] },
  "a signed timestamp in microseconds": {
    init: { headers: signed(REPORT, now * 1000) },
    expected: [401, "unauthorized"],
  },
  "a signed timestamp with an exponent": {
    init: { headers: signed(REPORT, "1.8e12") },
    expected: [401, "unauthorized"],
  },
  "GET": { init: { method: "GET", body: null }, expected: [405, "method_not_allowed"] },
  "PUT": { init: { method: "PUT" }, expected: [405, "method_not_allowed"] },
  "DELETE": { init: { method: "DELETE" }, expected: [405, "method_not_allowed"] },
  "nothing": { init: {}, payload: "", expected: [400, "not_json"] },
  "half a report": { init: {}, payload: REPORT.slice(0, REPORT.length / 2), expected: [400, "not_json"] },
  "a form": { init: {}, payload: "message=hello", expected: [400, "not_json"] },
  "bytes that are no UTF-8": {
    init: {},
    payload: Uint8Array.from(REPORT.replace("Hello.", "\xff"), (character) => character.charCodeAt(0)),
    expected: [400, "not_json"],
  },
  "a wav": { init: {}, payload: wav(0.1), expected: [400, "not_json"] },
  "JSON without an end": { init: {}, payload: deep, expected: [400, "not_json"] },
  "null": { init: {}, payload: null, expected: [400, "not_a_message"] },
  "a number": { init: {}, payload: 7, expected: [400, "not_a_message"] },
  "a list": { init: {}, payload: [report()], expected: [400, "not_a_message"] },
  "no message": { init: {}, payload: {}, expected: [400, "not_a_message"] },
  "a message that is text": { init: {}, payload: { message: "end-of-call-report" }, expected: [400, "not_a_message"] },
  "a message without a type": {
    init: {},
    payload: { message: { call: { id: CALL } } },
    expected: [400, "not_a_message"],
  },
  "a type that is a list": {
    init: {},
    payload: { message: { type: ["end-of-call-report"] } },
    expected: [400, "not_a_message"],
  },
  "a report without a call": {
    init: {},
    payload: report({}, { call: undefined }),
    expected: [400, "unreadable_report"],
  },
  "a call without an id": { init: {}, payload: report({}, { call: {} }), expected: [400, "unreadable_report"] },
  "an id that is a number": {
    init: {},
    payload: report({}, { call: { id: 7 } }),
    expected: [400, "unreadable_report"],
  },
  "an id that is a path": {
    init: {},
    payload: report({}, { call: { id: "../../call" } }),
    expected: [400, "unreadable_report"],
  },
  "an id of a megabyte": {
    init: {},
    payload: report({}, { call: { id: "a".repeat(1_000_000) } }),
    expected: [400, "unreadable_report"],
  },
  "a byte more than is taken": {
    init: {},
    payload: `${REPORT}${" ".repeat(2_000_001 - REPORT.length)}`,
    expected: [413, "too_large"],
  },
};

Deno.test("handle() refuses what is forged, replayed, truncated, oversized or malformed, and writes nothing", async (test) => {
  await project.fresh();
  await records.patient();
  await using hook = webhook();
  const before = await records.counts();
  for (const [name, { init, payload = REPORT, expected }] of Object.entries(REFUSED)) {
    await test.step(name, async () => {
      const { status, body, type } = await send(hook, payload, init);
      assert.deepEqual([status, body.code], expected);
      assert.equal(type, "application/problem+json");
    });
  }
  assert.ok(Object.keys(REFUSED).length >= 40);
  assert.equal(hook.background.count, 0);
  assert.deepEqual(await records.counts(), before);
});

Deno.test("handle() answers 404 to a URL that names no provider, before it reads anything", async () => {
  await project.fresh();
  await records.patient();
  const before = await records.counts();
  await using hook = webhook();
  const { origin } = new URL(hook.url);
  for (
    const path of ["", "/", "/vapi", "/call-webhook", "/call-webhook/", "/call-webhook/other", "/call-webhook/vapi/x"]
  ) {
    const { status, body } = await post(origin + path, REPORT, { headers: BEARER });
    assert.deepEqual([status, body.code], [404, "unknown_provider"], path);
  }
  assert.deepEqual(await records.counts(), before);
  assert.equal((await post(`${origin}/functions/v1/call-webhook/vapi/`, REPORT, { headers: BEARER })).status, 200);
});

Deno.test("handle() admits nobody where no secret is set", async () => {
  await project.fresh();
  await records.patient();
  const before = await records.counts();
  await using hook = webhook({ VAPI_WEBHOOK_SECRET: "", VAPI_HMAC_SECRET: "" });
  const attempts = [
    BEARER,
    {},
    { authorization: "Bearer " },
    { authorization: "Bearer undefined" },
    signed(REPORT, now, "x"),
  ];
  lines.length = 0;
  for (const headers of attempts) {
    const { status, body } = await send(hook, REPORT, { headers: headers as Record<string, string> });
    assert.deepEqual([status, body.code], [500, "not_configured"]);
  }
  assert.ok(lines.every((line) => line.includes("VAPI_WEBHOOK_SECRET") && line.includes('"level":"error"')));
  assert.deepEqual(await records.counts(), before);
});

Deno.test("handle() accepts no signature where only the bearer's secret is set, and no bearer where only the other is", async () => {
  await project.fresh();
  await using bearers = webhook({ VAPI_HMAC_SECRET: "" });
  for (const secret of [SECRET, "undefined", "null", "x"]) {
    assert.equal((await send(bearers, REPORT, { headers: signed(REPORT, Date.now(), secret) })).status, 401);
  }
  await using signatures = webhook({ VAPI_WEBHOOK_SECRET: "" });
  for (const shown of ["", "undefined", HMAC_SECRET]) {
    const headers = { authorization: `Bearer ${shown}`, "x-vapi-secret": shown };
    assert.equal((await send(signatures, REPORT, { headers })).status, 401);
  }
});

Deno.test("handle() stops reading a body at its limit, and reads none of a stranger's", async () => {
  await using hook = webhook();
  for (const [headers, most] of [[BEARER, 4_000_000], [{}, 2_000_000]] as const) {
    let sent = 0;
    const endless = new ReadableStream({
      pull(controller) {
        sent += 64_000;
        if (sent > 60_000_000) controller.close();
        else controller.enqueue(new Uint8Array(64_000).fill(0x20));
      },
    });
    const answer = await fetch(hook.url, { method: "POST", headers, body: endless }).catch(() => undefined);
    if (answer) assert.equal(answer.status, most === 4_000_000 ? 413 : 401);
    await answer?.body?.cancel();
    assert.ok(sent < most + 8_000_000, `${sent} bytes were taken`);
  }
});

Deno.test("handle() refuses a body that ends before its length", async () => {
  await project.fresh();
  await records.patient();
  const before = await records.counts();
  lines.length = 0;
  await using hook = webhook();
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: Number(new URL(hook.url).port) });
  const head =
    `POST /call-webhook/vapi HTTP/1.1\r\nhost: a\r\nauthorization: ${BEARER.authorization}\r\ncontent-length: ${REPORT.length}\r\n\r\n`;
  await connection.write(new TextEncoder().encode(head + REPORT.slice(0, -5)));
  connection.close();
  for (let waited = 0; lines.length === 0 && waited < 100; waited++) await new Promise((done) => setTimeout(done, 10));
  assert.equal(JSON.parse(lines[0]!).code, "truncated_body");
  assert.deepEqual(await records.counts(), before);
});

Deno.test("handle() acknowledges messages of other kinds, and ignores them", async () => {
  await project.fresh();
  await records.patient();
  const before = await records.counts();
  await using hook = webhook();
  for (const type of ["status-update", "transcript", "tool-calls", "speech-update", "hang", "something-new", ""]) {
    const { status, body } = await send(hook, report({}, { type }));
    assert.deepEqual([status, body], [200, { received: false }]);
  }
  assert.deepEqual(await records.counts(), before);
});

Deno.test("handle() accepts a report with any odd fields, as long as it names its call", async () => {
  await project.fresh();
  await records.patient();
  await using hook = webhook();
  const odd = [
    7,
    "text",
    "a\0b",
    "\ud800",
    true,
    [],
    {},
    [[null]],
    -1,
    1e308,
    "2026-99-99T00:00:00Z",
    "x".repeat(50_000),
    null,
  ];
  for (const value of odd) {
    const { status } = await send(hook, {
      message: {
        type: "end-of-call-report",
        call: { id: CALL, metadata: value, startedAt: value, artifact: value, compliance: value },
        customer: value,
        artifact: {
          recordingUrl: value,
          messages: [value, { role: "user", secondsFromStart: value, duration: value }],
          presignedUrlsExpiresAt: value,
          presignedCustomerUrl: value,
        },
        endedReason: value,
        startedAt: value,
        endedAt: value,
        analysis: { summary: value },
        assistantOverrides: value,
        compliance: { recordingConsent: value },
      },
    });
    assert.equal(status, 200, JSON.stringify(value)?.slice(0, 40));
  }
});

Deno.test("handle() keeps the report of an unknown patient, and copies nothing", async () => {
  await project.fresh();
  await using vapi = new FakeVapi();
  await using hook = webhook(vapi.settings);
  const { status, body } = await send(hook, report({ presignedCustomerUrl: vapi.sign(wav()) }));
  assert.deepEqual([status, body.call_log_id, body.disposition], [200, null, "unmatched"]);
  const kept = await project.sql`select provider_call_id, phone from care.unmatched_calls`;
  assert.deepEqual([...kept].map(({ provider_call_id, phone }) => [provider_call_id, phone]), [[CALL, PHONE]]);
  assert.deepEqual(vapi.requests, []);
});

Deno.test("handle() copies no recording of a voicemail, or of a call without consent", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  await using hook = webhook(vapi.settings);
  const address = { presignedCustomerUrl: vapi.sign(wav()) };
  const voicemail = await send(hook, report(address, { endedReason: "voicemail" }));
  assert.equal(voicemail.body.disposition, "skip");
  const refused = { compliance: { recordingConsent: { type: "verbal" } } };
  assert.equal((await send(hook, report(address, { ...refused, call: { id: "another-call" } }))).status, 200);
  await hook.background.settled();
  assert.deepEqual(vapi.requests, []);
  assert.deepEqual((await records.calls()).map(({ check_reason }) => check_reason).sort(), ["no_consent", "voicemail"]);
});

Deno.test("handle() collects the recording of a patient who fell silent in the middle of a call", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  await using hook = webhook(vapi.settings);
  const silent = report({ presignedCustomerUrl: vapi.sign(wav()) }, { endedReason: "silence-timed-out" });
  assert.equal((await send(hook, silent)).body.disposition, "judge");
  await hook.background.settled();
  const [call] = await records.calls();
  assert.deepEqual([call!.check_reason, call!.recording_channel], [null, "customer"]);
  assert.deepEqual(call!.speech_intervals, [[4, 5.5], [10.25, 12.501]]);
});

Deno.test("handle() stores an empty list of speech only for a call in which the patient said nothing", async () => {
  await project.fresh();
  await records.patient();
  await using hook = webhook();
  const agents = MESSAGES.filter(({ role }) => role !== "user");
  const kept: Record<string, unknown> = { silent: [], none: null, odd: null };
  const messages: Record<string, unknown> = { silent: agents, none: [], odd: [...agents, { role: "stranger" }] };
  for (const id of Object.keys(kept)) {
    await send(hook, report({ messages: messages[id] }, { call: { id }, endedReason: "customer-ended-call" }));
  }
  const calls = await records.calls();
  const found = calls.map((call): [unknown, unknown] => [call.provider_call_id, call.speech_intervals]);
  assert.deepEqual(Object.fromEntries(found), kept);
});

Deno.test("handle() keeps the recording of a call with an unknown ended reason", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  await using hook = webhook(vapi.settings);
  const recording = wav();
  const unheardOf = report({ presignedCustomerUrl: vapi.sign(recording) }, { endedReason: "ended-by-moonlight" });
  assert.equal((await send(hook, unheardOf)).body.disposition, "unknown");
  await hook.background.settled();
  const [kept] = await records.recordings();
  assert.equal(kept!.state, "stored");
  assert.equal((await records.calls())[0]!.check_reason, "ended_reason_unknown");
});

Deno.test("handle() answers 503 while the database is away, so that the report is sent again", async () => {
  await using hook = webhook({ SUPABASE_URL: "http://127.0.0.1:1" });
  const { status, body } = await send(hook, report());
  assert.deepEqual([status, body.code], [503, "database_unavailable"]);
});

Deno.test("handle() names the setting that is missing", async () => {
  await using hook = webhook({ SUPABASE_SECRET_KEY: "" });
  const { status, body } = await send(hook, report());
  assert.deepEqual([status, body.code], [500, "not_configured"]);
  assert.match(String(body.detail), /SUPABASE_SECRET_KEY/);
});

Deno.test("handle() puts no person, phone number, secret or signed URL into a log line or a response", () => {
  assertDiscreet(lines, [
    "Ana",
    PHONE,
    PHONE.slice(1), // the country code alone may be the milliseconds of a time
    SECRET,
    HMAC_SECRET,
    project.serviceKey,
    "X-Amz",
    "secret-1",
    "felt well",
  ]);
});
