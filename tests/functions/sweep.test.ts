import assert from "node:assert/strict";
import { handle } from "../../supabase/functions/collect-recordings/index.ts";
import { backend } from "./backend.ts";
import { PHONE, Records, wav } from "./records.ts";
import { assertDiscreet, environment, FUNCTIONS_KEY, listenToLines, serve } from "./serving.ts";
import { FakeVapi, KEY } from "./vapi.ts";

const NOW = "2026-11-20T12:00:00.000Z";
const HOUR = 3600_000;

const project = await backend();
const records = new Records(project);
const lines = listenToLines();

interface Swept {
  listed: number;
  received: number;
  unreadable: number;
  isDone: boolean;
  code?: string;
}

async function sweep(
  vapi: FakeVapi,
  at = NOW,
  named: Record<string, string> = {},
  milliseconds?: number,
): Promise<Swept> {
  await using served = serve((request) =>
    handle(request, environment(project, { ...vapi.settings, ...named }), milliseconds)
  );
  const answer = await fetch(served.url, {
    method: "POST",
    headers: { authorization: `Bearer ${FUNCTIONS_KEY}` },
    body: JSON.stringify({ sweep: true, at }),
  });
  const told = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(told));
  return told.swept;
}

/** A finished call, made so many milliseconds before noon, that nobody has been on the line of. */
function add(vapi: FakeVapi, id: string, before: number, named: Record<string, unknown> = {}, recordings = {}): void {
  const createdAt = new Date(Date.parse(NOW) - before).toISOString();
  vapi.add(id, recordings, {
    createdAt,
    startedAt: createdAt,
    endedAt: createdAt,
    endedReason: "customer-did-not-answer",
    customer: { number: PHONE },
    ...named,
  });
}

async function sweptUntil(): Promise<string | null> {
  const [provider] = await project.sql`select swept_until from voice.providers where id = 'vapi'`;
  return provider!.swept_until?.toISOString() ?? null;
}

async function callIds(): Promise<unknown[]> {
  return (await records.calls()).map(({ provider_call_id }) => provider_call_id);
}

Deno.test("handle() takes in calls that nobody reported, and has their recordings copied in the same run", async () => {
  await project.fresh();
  const patient = await records.patient();
  await using vapi = new FakeVapi();
  const recording = wav();
  add(vapi, "never-reported", 2 * HOUR, { endedReason: "customer-ended-call" }, { customer: recording });
  const swept = await sweep(vapi);
  assert.deepEqual(swept, { listed: 1, received: 1, unreadable: 0, isDone: true });
  const [call] = await records.calls();
  assert.deepEqual([call!.patient_id, call!.provider_call_id, call!.recording_channel], [
    patient,
    "never-reported",
    "customer",
  ]);
  assert.deepEqual(await records.stored(call!.recording_ref), recording);
});

Deno.test("handle() leaves alone what was reported, what is not over, and what is older than the provider's memory", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  await records.reported({ provider_call_id: "reported", ended_reason: "voicemail" });
  await records.reported({ provider_call_id: "unmatched", phone: "+351999999999" });
  const before = await records.counts();
  add(vapi, "reported", 2 * HOUR);
  add(vapi, "unmatched", 2 * HOUR);
  for (const status of ["scheduled", "queued", "ringing", "in-progress", "forwarding", undefined]) {
    add(vapi, `${status}`, HOUR, { status });
  }
  add(vapi, "long-ago", 15 * 24 * HOUR);
  assert.deepEqual(await sweep(vapi), { listed: 8, received: 0, unreadable: 0, isDone: true });
  assert.deepEqual(await records.counts(), before);
});

Deno.test("handle() goes through the whole list, whichever way it is sorted, though many calls share a millisecond", async () => {
  for (const isOldestFirst of [false, true]) {
    await project.fresh();
    await records.patient();
    await using vapi = new FakeVapi();
    vapi.isOldestFirst = isOldestFirst;
    for (let number = 0; number < 230; number++) {
      add(vapi, `call-${String(number).padStart(3, "0")}`, Math.floor(number / 30) * 1000);
    }
    const swept = await sweep(vapi);
    assert.deepEqual([swept.received, swept.isDone], [230, true], `oldest first: ${isOldestFirst}`);
    assert.equal(new Set(await callIds()).size, 230);
    assert.ok(vapi.listed.length <= 5, `${vapi.listed.length} pages`);
    assert.ok(vapi.listed.every((range) => range.get("limit") === "100"));
  }
});

Deno.test("handle() comes to an end where a whole page was made in one millisecond", async () => {
  await project.fresh();
  await records.patient();
  for (const isOldestFirst of [false, true]) {
    await using vapi = new FakeVapi();
    vapi.isOldestFirst = isOldestFirst;
    for (let number = 0; number < 120; number++) add(vapi, `call-${number}`, HOUR);
    const swept = await sweep(vapi);
    assert.ok(swept.isDone && vapi.listed.length <= 4, `${vapi.listed.length} pages`);
  }
});

Deno.test("handle() looks back past its last sweep, and takes nothing in twice", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  add(vapi, "first", HOUR);
  await sweep(vapi);
  assert.equal(await sweptUntil(), NOW);
  assert.equal(
    vapi.listed[0]!.get("createdAtGt"),
    "2026-11-06T11:59:59.999Z",
    "the first time, as far as the provider remembers",
  );
  add(vapi, "in-progress-then", HOUR / 2);
  add(vapi, "since", -HOUR / 2);
  const swept = await sweep(vapi, "2026-11-20T13:00:00.000Z");
  assert.deepEqual([swept.listed, swept.received], [3, 2]);
  assert.equal(vapi.listed[1]!.get("createdAtGt"), "2026-11-19T11:59:59.999Z", "a day before the last sweep");
  assert.deepEqual(await callIds(), ["first", "in-progress-then", "since"]);
  assert.equal((await sweep(vapi, "2026-11-20T13:00:00.000Z")).received, 0);
});

Deno.test("handle() sweeps the same time again after a sweep that broke off", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 150; number++) add(vapi, `call-${number}`, number * 60_000);
  const broken: [FakeVapi["instead"], string][] = [
    [() => new Response("{}", { status: 500 }), "provider_unreachable"],
    [() => Response.json({ message: "Invalid Key." }, { status: 401 }), "provider_unauthorised"],
    [() => new Response("<html>", { status: 200 }), "provider_unreachable"],
    [() => vapi.listed.length > 0 ? new Response(null, { status: 502 }) : undefined, "provider_unreachable"],
  ];
  for (const [instead, code] of broken) {
    vapi.instead = instead;
    const swept = await sweep(vapi);
    assert.deepEqual([swept.isDone, swept.code], [false, code]);
    assert.equal(await sweptUntil(), null);
  }
  assert.equal((await callIds()).length, 100, "what the first page told is taken in");
  vapi.instead = () => undefined;
  assert.equal((await sweep(vapi)).received, 50);
  assert.equal(await sweptUntil(), NOW);
});

Deno.test("handle() ends a sweep in time, and goes on where it was the next time", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 99; number++) add(vapi, `call-${number}`, number * 60_000);
  const swept = await sweep(vapi, NOW, {}, 20);
  assert.ok(!swept.isDone && swept.received < 99, JSON.stringify(swept));
  assert.equal(await sweptUntil(), null);
  assert.equal((await sweep(vapi)).received, 99 - swept.received);
});

Deno.test("handle() goes on past a call that it cannot read", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  add(vapi, "a call with spaces", HOUR);
  add(vapi, "readable", 2 * HOUR);
  assert.deepEqual(await sweep(vapi), { listed: 2, received: 1, unreadable: 1, isDone: true });
  assert.deepEqual(await callIds(), ["readable"]);
});

Deno.test("handle() sweeps nothing without the API's key, and says so", async () => {
  await project.fresh();
  await using vapi = new FakeVapi();
  const swept = await sweep(vapi, NOW, { VAPI_API_KEY: "" });
  assert.deepEqual([swept.isDone, swept.code], [false, "provider_key_missing"]);
  assert.deepEqual(vapi.requests, []);
  assertDiscreet(lines, [PHONE, "Ana", KEY, "secret-"]);
});
