import assert from "node:assert/strict";
import type { Counts } from "../../supabase/functions/_shared/queue.ts";
import { handle } from "../../supabase/functions/collect-recordings/index.ts";
import { backend } from "./backend.ts";
import { CALL, PHONE, Records, wav } from "./records.ts";
import { MESSAGES } from "./reports.ts";
import { assertDiscreet, call, environment, FUNCTIONS_KEY, listenToLines, run, serve, speak } from "./serving.ts";
import { FakeVapi, KEY } from "./vapi.ts";

const ENDED = "2026-11-20T09:05:00.000Z";
const SOON = "2026-11-20T09:05:30.000Z"; // after the call's end
const LATER = "2026-11-20T12:00:00.000Z";
const NEXT_WEEK = "2026-11-27T12:00:00.000Z";
const CHANNELS = { customer: wav(0.3), stereo: wav(0.4, 2), mono: wav(0.5) };

const project = await backend();
const records = new Records(project);
const lines = listenToLines();

function collect(
  settings: Record<string, string>,
  options: unknown = {},
  milliseconds?: number,
): Promise<{ collected: Counts }> {
  return run((request) => handle(request, environment(project, settings), milliseconds), options);
}

/** In an empty project, report a call of Ana's. */
async function reported(named: Record<string, unknown> = {}): Promise<string> {
  await project.fresh();
  await records.patient();
  return await records.reported({ at: ENDED, ...named });
}

async function only(): Promise<{ state: unknown; code: unknown; channel: unknown; ref: unknown; permanent: boolean }> {
  const [recording] = await records.recordings();
  const [call] = await records.calls();
  return {
    state: recording!.state,
    code: recording!.error_code,
    channel: recording!.source_channel && call!.recording_channel,
    ref: call!.recording_ref,
    permanent: ["refused", "expired"].includes(String(recording!.state)),
  };
}

Deno.test("handle() refuses a caller without the functions' key, and admits nobody where none is set", async () => {
  await reported();
  const before = await records.counts();
  const refusal = async (headers: Record<string, string>, named: Record<string, string> = {}, method = "POST") => {
    const init = { method, headers, body: null };
    const { status, body } = await call((request) => handle(request, environment(project, named)), "", init);
    return [status, body.code];
  };
  for (
    const shown of [
      "",
      "Bearer",
      "Bearer ",
      "Bearer wrong",
      `Bearer ${FUNCTIONS_KEY}x`,
      FUNCTIONS_KEY,
      `Bearer ${project.serviceKey}`,
    ]
  ) {
    assert.deepEqual(await refusal(shown ? { authorization: shown } : {}), [401, "unauthorized"], shown);
  }
  assert.deepEqual(await refusal({ authorization: "Bearer " }, { RETROCARE_FUNCTIONS_KEY: "" }), [
    500,
    "not_configured",
  ]);
  assert.deepEqual(await refusal({ authorization: `Bearer ${FUNCTIONS_KEY}` }, {}, "GET"), [405, "method_not_allowed"]);
  assert.deepEqual(await records.counts(), before);
  assert.equal((await only()).state, "queued");
});

Deno.test("handle() refuses invalid options", async () => {
  await project.fresh();
  const bodies = [
    "{",
    "[]",
    "7",
    "null",
    '"reconcile"',
    '{"call_log_id":"ana"}',
    '{"call_log_id":7}',
    '{"at":"today"}',
    '{"at":null}',
    '{"reconcile":"yes"}',
  ];
  for (const body of bodies) {
    const refused = await call((request) => handle(request, environment(project)), body);
    assert.equal(refused.status, 400, body);
    assert.match(refused.body.code, /^(bad_request|not_json)$/);
  }
});

Deno.test("handle() copies the patient's own recording, marks it so, and wakes the service", async () => {
  const callLogId = await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  const woken: (string | null)[] = [];
  await using service = serve((request) => {
    woken.push(`${request.method} ${new URL(request.url).pathname} ${request.headers.get("authorization")}`);
    return Response.json({ woken: true });
  });
  const { collected } = await collect({
    ...vapi.settings,
    PYTHON_SERVICE_URL: `${service.url}/`,
    RETROCARE_API_KEY: "api-key",
  });
  assert.deepEqual(collected, { claimed: 1, done: 1, lost: 0, failed: {}, isDone: true });
  const [call] = await records.calls();
  assert.equal(call!.recording_channel, "customer");
  assert.equal(call!.recording_ref, `storage:voice-recordings/${call!.patient_id}/${callLogId}.wav`);
  assert.deepEqual(await records.stored(call!.recording_ref), CHANNELS.customer);
  assert.deepEqual(woken, ["POST /wake Bearer api-key"]);
  const { collected: again } = await collect(vapi.settings);
  assert.equal(again.claimed, 0);
});

Deno.test("handle() queues the check of what it stored", async () => {
  await reported();
  await project.sql`select voice.register_encoder('test', 2, 1)`;
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  await collect(vapi.settings);
  assert.deepEqual((await records.checks()).map(({ state }) => state), ["queued"]);
});

Deno.test("handle() sends its key to the API, and to no signed URL", async () => {
  await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  await collect(vapi.settings);
  assert.deepEqual(vapi.requests, [`GET /call/${CALL}/customer-recording`, "storage /recordings/1.wav"]);
  assert.deepEqual(vapi.leaked, []);
});

Deno.test("handle() tries a signed URL before the API, until it has expired", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  const source = (url: string, until: string) => ({
    recording_url: url,
    recording_url_channel: "customer",
    recording_url_expires_at: until,
  });
  const other = wav(0.1);
  await reported(source(vapi.sign(other), "2026-11-20T09:35:00Z"));
  await collect(vapi.settings, { at: SOON });
  assert.deepEqual(await records.stored((await only()).ref), other);
  assert.deepEqual(vapi.requests, ["storage /recordings/1.wav"]);

  vapi.requests.length = 0;
  await reported(source(vapi.sign(other), "2026-11-20T09:35:00Z"));
  await collect(vapi.settings, { at: LATER });
  assert.deepEqual(await records.stored((await only()).ref), CHANNELS.customer, "what is over is not even tried");
  assert.equal(vapi.requests[0], `GET /call/${CALL}/customer-recording`);

  vapi.requests.length = 0;
  const forgotten = vapi.sign(other);
  vapi.signatures.clear();
  await reported(source(forgotten, "2026-11-20T09:35:00Z"));
  await collect(vapi.settings, { at: SOON });
  assert.deepEqual(await records.stored((await only()).ref), CHANNELS.customer, "403 is fallen back from");
});

Deno.test("handle() falls back from the patient's channel to both channels, and to the mix last", async () => {
  const plain = (channel: string) => (url: string) => ({ recording_url: url, recording_url_channel: channel });
  type Case = {
    has: (keyof typeof CHANNELS)[];
    given?: (url: string) => Record<string, unknown>;
    onCall?: (vapi: FakeVapi) => Record<string, unknown>;
    expected: keyof typeof CHANNELS | "given" | "call";
    marked: string;
  };
  const cases: Record<string, Case> = {
    "the API's customer": { has: ["customer", "stereo", "mono"], expected: "customer", marked: "customer" },
    "the API's customer before a plain address": {
      has: ["customer"],
      given: plain("customer"),
      expected: "customer",
      marked: "customer",
    },
    "a plain address of the customer": {
      has: ["stereo", "mono"],
      given: plain("customer"),
      expected: "given",
      marked: "customer",
    },
    "the customer by what the API says of the call": {
      has: ["stereo"],
      onCall: (vapi) => ({ artifact: { presignedCustomerUrl: vapi.sign(wav(0.7)) } }),
      expected: "call",
      marked: "customer",
    },
    "the API's stereo": { has: ["stereo", "mono"], expected: "stereo", marked: "stereo" },
    "a plain address of both channels": { has: ["mono"], given: plain("stereo"), expected: "given", marked: "stereo" },
    "the API's stereo before the mix that was given": {
      has: ["stereo"],
      given: plain("mixed"),
      expected: "stereo",
      marked: "stereo",
    },
    "the API's mix": { has: ["mono"], expected: "mono", marked: "mixed" },
    "a plain address of the mix": { has: [], given: plain("mixed"), expected: "given", marked: "mixed" },
  };
  for (const [name, { has, given, onCall, expected, marked }] of Object.entries(cases)) {
    await using vapi = new FakeVapi();
    const recordings = Object.fromEntries(has.map((kind) => [kind, CHANNELS[kind]]));
    vapi.add(CALL, recordings, { endedAt: ENDED, ...onCall?.(vapi) });
    const other = wav(0.6);
    await reported(given?.(vapi.sign(other)));
    await collect(vapi.settings, { at: LATER });
    const { state, ref } = await only();
    assert.equal(state, "stored", name);
    const wanted = expected === "given" ? other : expected === "call" ? wav(0.7) : CHANNELS[expected];
    assert.deepEqual(await records.stored(ref), wanted, name);
    assert.equal((await records.calls())[0]!.recording_channel, marked, name);
  }
});

Deno.test("handle() keeps the times of the patient's words for two channels, also where only the API knows them", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL, { stereo: CHANNELS.stereo }, { endedAt: ENDED, artifact: { messages: MESSAGES } });
  await reported();
  await collect(vapi.settings, { at: LATER });
  assert.deepEqual((await records.calls())[0]!.speech_intervals, [[4, 5.5], [10.25, 12.501]]);
  await reported({ speech_intervals: [[1, 2]] });
  await collect(vapi.settings, { at: LATER });
  assert.deepEqual((await records.calls())[0]!.speech_intervals, [[1, 2]]);
});

Deno.test("handle() collects from the reported URL where the API's key is not set", async () => {
  await using vapi = new FakeVapi();
  const settings = { ...vapi.settings, VAPI_API_KEY: "" };
  await reported({ recording_url: vapi.sign(wav(0.2)), recording_url_channel: "mixed" });
  await collect(settings);
  assert.equal((await records.calls())[0]!.recording_channel, "mixed");
  assert.ok(vapi.requests.every((request) => request.startsWith("storage")));

  await reported({
    recording_url: vapi.sign(wav(0.2)),
    recording_url_channel: "customer",
    recording_url_expires_at: "2026-11-20T09:35:00Z",
  });
  await collect(settings, { at: LATER });
  assert.deepEqual(await only().then(({ state, code }) => [state, code]), ["queued", "recording_expired"]);
  await project.sql`update care.recordings set run_at = ${ENDED}, attempts = 7`;
  await project.sql`update public.call_logs set recording_source_url = null`;
  await collect(settings, { at: LATER });
  assert.equal((await only()).code, "provider_key_missing");
});

Deno.test("handle() waits while its key is refused, and takes no mix meanwhile", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS, { endedAt: ENDED });
  vapi.key = "another key";
  await reported({ recording_url: vapi.sign(wav(0.2)), recording_url_channel: "mixed" });
  await project.sql`update care.recordings set attempts = 7`; // it is not late any more
  const { collected } = await collect(vapi.settings, { at: LATER });
  assert.deepEqual(collected.failed, { provider_unauthorised: 1 });
  assert.deepEqual(await only().then(({ state, code }) => [state, code]), ["queued", "provider_unauthorised"]);
  assert.equal(vapi.requests.length, 1, "one refusal is enough");
  assert.ok(lines.some((line) => line.includes("provider_unauthorised") && line.includes('"level":"error"')));
  vapi.key = KEY;
  await collect(vapi.settings, { at: NEXT_WEEK });
  assert.equal((await records.calls())[0]!.recording_channel, "customer");
});

Deno.test("handle() does not take a refusal of a signed address for a refusal of the key", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  vapi.instead = (request) => {
    if (!request.url.endsWith("customer-recording")) return undefined;
    const location = vapi.sign(CHANNELS.customer);
    vapi.signatures.clear();
    return new Response(null, { status: 302, headers: { location } });
  };
  await reported();
  await collect(vapi.settings);
  assert.equal((await only()).code, "recording_unreachable");
});

Deno.test("handle() retries a recording that is late, and collects it when it exists", async () => {
  await reported();
  await using vapi = new FakeVapi();
  const call = vapi.add(CALL, { mono: CHANNELS.mono }, { endedAt: ENDED });
  await collect(vapi.settings, { at: SOON });
  assert.deepEqual(await only().then(({ state, code }) => [state, code]), ["queued", "recording_late"]);
  assert.equal((await collect(vapi.settings, { at: SOON })).collected.claimed, 0, "not before the wait is over");
  call.recordings.customer = CHANNELS.customer;
  await collect(vapi.settings, { at: "2026-11-20T09:08:00Z" });
  assert.deepEqual(await only().then(({ state, code }) => [state, code]), ["stored", null]);
  assert.equal((await records.calls())[0]!.recording_channel, "customer");
});

Deno.test("handle() gives up a recording that does not exist a day after its call", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL, {}, { endedAt: ENDED });
  await reported();
  await collect(vapi.settings, { at: LATER });
  assert.deepEqual(await only().then(({ code, permanent }) => [code, permanent]), ["recording_not_found", false]);
  await collect(vapi.settings, { at: "2026-11-21T12:00:00Z" });
  assert.deepEqual(await only().then(({ code, permanent }) => [code, permanent]), ["recording_not_found", true]);
  const [call] = await records.calls();
  assert.deepEqual([call!.check_state, call!.check_reason], ["dead", "recording_unavailable"]);
});

Deno.test("handle() gives up a call that the provider does not know, after enough attempts", async () => {
  await using vapi = new FakeVapi();
  await reported();
  await collect(vapi.settings);
  assert.deepEqual(await only().then(({ code, permanent }) => [code, permanent]), ["recording_late", false]);
  await project.sql`update care.recordings set run_at = ${ENDED}, attempts = 8`;
  await collect(vapi.settings);
  assert.deepEqual(await only().then(({ code, permanent }) => [code, permanent]), ["recording_not_found", false]);
  await project.sql`update care.recordings set run_at = ${ENDED}, attempts = 12`;
  await collect(vapi.settings);
  assert.equal((await only()).permanent, true);
});

Deno.test("handle() refuses a recording that is too large, for good", async () => {
  await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, { ...CHANNELS, customer: wav(2) });
  const limit = { RETROCARE_MAXIMUM_RECORDING_BYTES: String(wav(2).byteLength - 1) };
  await collect({ ...vapi.settings, ...limit });
  assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["recording_too_large", "refused"]);
  await reported();
  await collect({ ...vapi.settings, RETROCARE_MAXIMUM_RECORDING_BYTES: String(wav(2).byteLength) });
  assert.equal((await only()).state, "stored");
});

Deno.test("handle() trusts a recording's bytes, and no Content-Type", async () => {
  await using vapi = new FakeVapi();
  const page = new TextEncoder().encode("<html>Please sign in</html>");
  const given = (content: Uint8Array, type: string) =>
    reported({ recording_url: vapi.sign(content, type), recording_url_channel: "customer" });
  const settings = { ...vapi.settings, VAPI_API_KEY: "" };
  await given(page, "audio/wav");
  await collect(settings);
  assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["recording_not_audio", "queued"]);
  await project.sql`update care.recordings set run_at = ${ENDED}, attempts = 5`;
  await collect(settings);
  assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["recording_not_audio", "refused"]);
  await given(new Uint8Array(), "audio/wav");
  await collect(settings);
  assert.equal((await only()).code, "recording_not_audio");
  const ogg = new Uint8Array(2000);
  ogg.set(new TextEncoder().encode("OggS"));
  await given(ogg, "text/html");
  await collect(settings);
  assert.match(String((await only()).ref), /\.ogg$/);
});

Deno.test("handle() stores no recording that is shorter than announced, slow, or cut off", async () => {
  const content = wav(0.1);
  const head = (length: number) => `HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: ${length}\r\n\r\n`;
  const write = (connection: Deno.Conn, text: string) => connection.write(new TextEncoder().encode(text));
  const wait = () => new Promise<void>((resolve) => setTimeout(resolve, 800));
  const answers: Record<string, (connection: Deno.Conn) => Promise<unknown>> = {
    "shorter than its length": async (connection) => {
      await write(connection, head(content.byteLength + 1));
      await connection.write(content);
    },
    "broken off": (connection) => write(connection, head(content.byteLength)),
    "slow": async (connection) => {
      await write(connection, head(content.byteLength));
      for (let at = 0; at < 20; at++) {
        await connection.write(content.subarray(at, at + 1));
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    "silent": wait,
    "500": (connection) => write(connection, "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"),
    "429": (connection) => write(connection, "HTTP/1.1 429 Slow\r\nretry-after: 9\r\ncontent-length: 0\r\n\r\n"),
    "no HTTP": (connection) => write(connection, "hello\r\n"),
  };
  await using vapi = new FakeVapi();
  vapi.add(CALL, { stereo: CHANNELS.stereo, mono: CHANNELS.mono });
  for (const [name, answer] of Object.entries(answers)) {
    await using host = speak(async (connection) => {
      await connection.read(new Uint8Array(4096));
      await answer(connection);
    });
    await reported({ recording_url: `${host.url}/a.wav?X-Amz-Signature=secret-0`, recording_url_channel: "customer" });
    const settings = {
      ...vapi.settings,
      RETROCARE_FETCH_PRIVATE_HOSTS: `${vapi.named},${host.named}`,
      RETROCARE_FETCH_SECONDS: "0.4",
    };
    await collect(settings);
    assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["recording_unreachable", "queued"], name);
    const [call] = await records.calls();
    assert.equal(call!.recording_ref, null, `${name}: and nothing worse is taken in its place`);
  }
});

Deno.test("handle() fetches only from allowed hosts, and otherwise leaves a code for the operator", async () => {
  await using vapi = new FakeVapi();
  for (
    const url of [
      "http://169.254.169.254/latest",
      "https://evil.example/a.wav",
      "https://127.0.0.1/a.wav",
      "http://storage.vapi.ai/a.wav",
    ]
  ) {
    await reported({ recording_url: url, recording_url_channel: "customer" });
    await collect({ ...vapi.settings, VAPI_API_KEY: "" });
    assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["recording_refused", "queued"], url);
  }
});

Deno.test("handle() changes nothing where another run has leased its recording meanwhile", async () => {
  await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  vapi.instead = async () => {
    await project.sql`update care.recordings set lease_token = gen_random_uuid(), worker = 'another'`;
    return undefined;
  };
  const { collected } = await collect(vapi.settings);
  assert.deepEqual([collected.claimed, collected.done, collected.lost], [1, 0, 1]);
  assert.deepEqual((await records.recordings()).map(({ state, worker }) => [state, worker]), [["leased", "another"]]);
  assert.equal((await records.calls())[0]!.recording_ref, null);
});

Deno.test("handle() replaces what a run that was cut off left in Storage", async () => {
  await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  const [cut] =
    (await project.client.rpc("claim_recordings", { worker: "cut off", count: 1, lease_seconds: 0.05 })).data;
  await project.client.storage.from(project.bucket).upload(`${cut.object_path}.wav`, wav(0.1), {
    contentType: "audio/wav",
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  const { collected } = await collect(vapi.settings);
  assert.equal(collected.done, 1);
  assert.deepEqual(await records.stored((await only()).ref), CHANNELS.customer);
  assert.equal((await records.recordings())[0]!.attempts, 2);
});

Deno.test("handle() copies each of forty recordings once, in three runs at the same time", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 40; number++) {
    vapi.add(`call-${number}`, { customer: wav(0.01 * (number + 1)) });
    await records.reported({ provider_call_id: `call-${number}`, at: ENDED });
  }
  const runs = await Promise.all([collect(vapi.settings), collect(vapi.settings), collect(vapi.settings)]);
  const sum = (name: "claimed" | "done") => runs.reduce((total, { collected }) => total + collected[name], 0);
  assert.deepEqual([sum("claimed"), sum("done")], [40, 40]);
  const recordings = await records.recordings();
  assert.ok(recordings.every(({ state, attempts }) => state === "stored" && attempts === 1));
  for (const call of await records.calls()) {
    const number = Number(String(call.provider_call_id).split("-")[1]);
    assert.equal((await records.stored(call.recording_ref)).byteLength, wav(0.01 * (number + 1)).byteLength);
  }
});

Deno.test("handle() copies one recording at a time in its process, for all requests", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  let open = 0, most = 0;
  vapi.instead = async () => {
    most = Math.max(most, ++open);
    await new Promise((resolve) => setTimeout(resolve, 20));
    open--;
    return undefined;
  };
  const ids = [];
  for (let number = 0; number < 9; number++) {
    vapi.add(`call-${number}`, CHANNELS);
    ids.push(await records.reported({ provider_call_id: `call-${number}`, at: ENDED }));
  }
  const runs = [{}, {}, ...ids.slice(4).map((call_log_id) => ({ call_log_id }))];
  await Promise.all(runs.map((options) => collect(vapi.settings, options)));
  assert.equal(most, 1);
  assert.ok((await records.recordings()).every(({ state, attempts }) => state === "stored" && attempts === 1));
});

Deno.test("handle() gives up a slow provider before its lease is over", async () => {
  await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, { mono: CHANNELS.mono }, { endedAt: ENDED });
  let leftSeconds = 0;
  vapi.instead = async () => {
    const [row] = await project.sql`
      select extract(epoch from leased_until - ${LATER}::timestamptz)::float as seconds from care.recordings`;
    leftSeconds = row!.seconds;
    await new Promise((resolve) => setTimeout(resolve, 250));
    return undefined;
  };
  const begun = performance.now();
  await collect({ ...vapi.settings, RETROCARE_FETCH_SECONDS: "0.4" }, { at: LATER });
  assert.ok(performance.now() - begun < 1500, "404s that take their time do not add up");
  assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["recording_unreachable", "queued"]);
  assert.ok(leftSeconds > 60 + 0.4, `${leftSeconds} s for the upload and the rest`);
});

Deno.test("handle() copies the other recordings where one fails", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 9; number++) {
    vapi.add(`call-${number}`, number % 3 ? { customer: CHANNELS.customer } : {}, { endedAt: ENDED });
    await records.reported({ provider_call_id: `call-${number}`, at: ENDED });
  }
  const { collected } = await collect(vapi.settings, { at: LATER });
  assert.deepEqual(collected, { claimed: 9, done: 6, lost: 0, failed: { recording_not_found: 3 }, isDone: true });
});

Deno.test("handle() ends in time, and leaves the rest due", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  vapi.instead = () => new Promise((resolve) => setTimeout(resolve, 150, undefined));
  for (let number = 0; number < 12; number++) {
    vapi.add(`call-${number}`, { customer: CHANNELS.customer });
    await records.reported({ provider_call_id: `call-${number}`, at: ENDED });
  }
  const begun = performance.now();
  const { collected } = await collect(vapi.settings, {}, 400);
  assert.ok(performance.now() - begun < 3000);
  assert.ok(collected.done >= 1 && collected.done < 12 && !collected.isDone, JSON.stringify(collected));
  const states = (await records.recordings()).map(({ state }) => state);
  assert.equal(states.filter((state) => state === "queued").length, 12 - collected.done);
  await collect(vapi.settings);
  assert.ok((await records.recordings()).every(({ state }) => state === "stored"));
});

Deno.test("handle() claims nothing where its time ended before its turn came", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  vapi.instead = () => new Promise((resolve) => setTimeout(resolve, 500, undefined));
  for (const id of ["one", "two"]) {
    vapi.add(id, CHANNELS);
    await records.reported({ provider_call_id: id, at: ENDED });
  }
  const [first, second] = await Promise.all([collect(vapi.settings, {}, 200), collect(vapi.settings, {}, 200)]);
  assert.deepEqual([first.collected.claimed, second.collected.claimed].sort(), [0, 1]);
  assert.ok(!first.collected.isDone && !second.collected.isDone);
});

Deno.test("handle() copies one call's recording where the request names the call", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  const ids = [];
  for (const id of ["one", "two", "three"]) {
    vapi.add(id, CHANNELS);
    ids.push(await records.reported({ provider_call_id: id, at: ENDED }));
  }
  const { collected } = await collect(vapi.settings, { call_log_id: ids[1] });
  assert.deepEqual([collected.claimed, collected.done], [1, 1]);
  const states = (await records.recordings()).map(({ provider_call_id, state }) => [provider_call_id, state]);
  assert.deepEqual(states, [["one", "queued"], ["three", "queued"], ["two", "stored"]]);
});

Deno.test("handle() keeps a recording due while Storage is away", async () => {
  await reported();
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  // A project whose Storage is away; all other requests are passed on.
  await using gateway = serve(async (request) => {
    const { pathname, search } = new URL(request.url);
    if (pathname.startsWith("/storage/")) {
      return Response.json({ statusCode: "503", error: "away", message: "away" }, { status: 503 });
    }
    return await fetch(project.apiUrl + pathname + search, {
      method: request.method,
      headers: request.headers,
      body: await request.arrayBuffer(),
    });
  });
  await collect({ ...vapi.settings, SUPABASE_URL: gateway.url });
  assert.deepEqual(await only().then(({ code, state }) => [code, state]), ["storage_unavailable", "queued"]);
  await collect(vapi.settings, { at: NEXT_WEEK });
  assert.equal((await only()).state, "stored");
});

Deno.test("handle() succeeds where the service cannot be woken", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL, CHANNELS);
  await using service = serve(() => new Response(null, { status: 401 }));
  for (const url of [service.url, "http://127.0.0.1:1", "nowhere"]) {
    await reported();
    const { collected } = await collect({ ...vapi.settings, PYTHON_SERVICE_URL: url });
    assert.equal(collected.done, 1);
  }
});

Deno.test("handle() answers 503 while the database is away", async () => {
  const settings = environment(project, { SUPABASE_URL: "http://127.0.0.1:1" });
  const { status, body } = await call((request) => handle(request, settings));
  assert.deepEqual([status, body.code], [503, "database_unavailable"]);
});

Deno.test("handle() puts no signed URL, person or secret into a log line or an error's row", async () => {
  await reported({
    recording_url: "https://evil.example/a.wav?X-Amz-Signature=secret-0",
    recording_url_channel: "customer",
  });
  await using vapi = new FakeVapi();
  await collect({ ...vapi.settings, VAPI_API_KEY: "" });
  const [recording] = await records.recordings();
  assert.doesNotMatch(`${recording!.error_message}`, /secret|X-Amz|evil|Ana|351/);
  assertDiscreet(lines, [
    "X-Amz",
    "secret-",
    "evil.example",
    "Ana",
    PHONE,
    KEY,
    FUNCTIONS_KEY,
    "api-key",
    project.serviceKey,
  ]);
  assert.ok(lines.some((line) => JSON.parse(line).event === "recording_stored" && JSON.parse(line).call_log_id));
});
