import assert from "node:assert/strict";
import { handle } from "../../supabase/functions/collect-recordings/index.ts";
import type { Reconciled } from "../../supabase/functions/collect-recordings/reconcile.ts";
import { backend } from "./backend.ts";
import { PHONE, Records, wav } from "./records.ts";
import { assertDiscreet, environment, listenToLines, run } from "./serving.ts";
import { FakeVapi, KEY } from "./vapi.ts";

const NOW = "2026-11-20T12:00:00.000Z";
const HOUR = 3600_000;

const project = await backend();
const records = new Records(project);
const lines = listenToLines();

async function reconcile(
  vapi: FakeVapi,
  at = NOW,
  named: Record<string, string> = {},
  milliseconds?: number,
): Promise<Reconciled> {
  const settings = environment(project, { ...vapi.settings, ...named });
  const { reconciled } = await run((request) => handle(request, settings, milliseconds), { reconcile: true, at });
  assert.deepEqual(Object.keys(reconciled), ["vapi"]);
  return reconciled.vapi;
}

/** Add an unanswered call that was made this many milliseconds before noon. */
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

async function reconciledUntil(): Promise<string | null> {
  const [provider] = await project.sql`select reconciled_until from care.provider_accounts where id = 'vapi'`;
  return provider!.reconciled_until?.toISOString() ?? null;
}

async function callIds(): Promise<unknown[]> {
  return (await records.calls()).map(({ provider_call_id }) => provider_call_id);
}

Deno.test("handle() receives calls that were never reported, and collects their recordings in the same run", async () => {
  await project.fresh();
  const patient = await records.patient();
  await using vapi = new FakeVapi();
  const recording = wav();
  add(vapi, "never-reported", 2 * HOUR, { endedReason: "customer-ended-call" }, { customer: recording });
  const reconciled = await reconcile(vapi);
  assert.deepEqual(reconciled, { listed: 1, received: 1, unreadable: 0, isDone: true });
  const [call] = await records.calls();
  assert.deepEqual([call!.patient_id, call!.provider_call_id, call!.recording_channel], [
    patient,
    "never-reported",
    "customer",
  ]);
  assert.deepEqual(await records.stored(call!.recording_ref), recording);
});

Deno.test("handle() ignores calls that were reported, have not ended, or are older than the provider's retention", async () => {
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
  assert.deepEqual(await reconcile(vapi), { listed: 8, received: 0, unreadable: 0, isDone: true });
  assert.deepEqual(await records.counts(), before);
});

Deno.test("handle() goes through the whole list, whichever way it is sorted, though many calls share a millisecond", async () => {
  for (
    const [isOldestFirst, isSortedByUpdate] of [[false, false], [true, false], [false, true], [true, true]] as const
  ) {
    await project.fresh();
    await records.patient();
    await using vapi = new FakeVapi();
    Object.assign(vapi, { isOldestFirst, isSortedByUpdate });
    for (let number = 0; number < 130; number++) {
      const updatedAt = new Date(Date.parse(NOW) - Math.floor(number / 30) * HOUR).toISOString();
      add(vapi, `call-${String(number).padStart(3, "0")}`, (number % 7) * 24 * HOUR, { updatedAt });
    }
    const reconciled = await reconcile(vapi);
    assert.deepEqual([reconciled.received, reconciled.isDone], [130, true], `oldest first: ${isOldestFirst}`);
    assert.equal(new Set(await callIds()).size, 130);
    assert.ok(vapi.listed.length <= 20, `${vapi.listed.length} pages`);
  }
});

Deno.test("handle() receives more than a page of calls that were updated in one millisecond", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 120; number++) add(vapi, `call-${number}`, HOUR);
  add(vapi, "before", HOUR + 1);
  add(vapi, "after", HOUR - 1);
  const reconciled = await reconcile(vapi);
  assert.deepEqual([reconciled.received, reconciled.isDone], [122, true]);
  assert.ok(vapi.listed.length <= 70, `${vapi.listed.length} pages`);
});

Deno.test("handle() finds a call that was made days ago and ended today", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  add(vapi, "scheduled", 6 * 24 * HOUR, { status: "scheduled" });
  assert.equal((await reconcile(vapi)).received, 0);
  const [ended, later] = ["2026-11-21T09:00:00.000Z", "2026-11-21T12:00:00.000Z"];
  const named = { updatedAt: ended, startedAt: ended, endedAt: ended, endedReason: "customer-ended-call" };
  add(vapi, "scheduled", 6 * 24 * HOUR, named, { customer: wav() });
  assert.deepEqual(await reconcile(vapi, later), { listed: 1, received: 1, unreadable: 0, isDone: true });
  const [call] = await records.calls();
  assert.deepEqual([call!.timestamp, call!.recording_channel], [new Date(ended), "customer"]);
});

Deno.test("handle() looks back past its last reconciliation, and receives nothing twice", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  add(vapi, "first", HOUR);
  await reconcile(vapi);
  assert.equal(await reconciledUntil(), NOW);
  assert.equal(
    vapi.listed[0]!.get("updatedAtGe"),
    "2026-11-06T12:00:00.000Z",
    "the first time, as far as the provider remembers",
  );
  add(vapi, "in-progress-then", HOUR / 2);
  add(vapi, "since", -HOUR / 2);
  const reconciled = await reconcile(vapi, "2026-11-20T13:00:00.000Z");
  assert.deepEqual([reconciled.listed, reconciled.received], [3, 2]);
  assert.equal(
    vapi.listed[1]!.get("updatedAtGe"),
    "2026-11-20T11:00:00.000Z",
    "an hour before the last reconciliation",
  );
  assert.deepEqual(await callIds(), ["first", "in-progress-then", "since"]);
  assert.equal((await reconcile(vapi, "2026-11-20T13:00:00.000Z")).received, 0);
});

Deno.test("handle() reconciles the same time again after a run that broke off", async () => {
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
    const reconciled = await reconcile(vapi);
    assert.deepEqual([reconciled.isDone, reconciled.code], [false, code]);
    assert.equal(await reconciledUntil(), null);
  }
  assert.equal((await callIds()).length, 100, "the calls of the first page are received");
  vapi.instead = () => undefined;
  assert.equal((await reconcile(vapi)).received, 50);
  assert.equal(await reconciledUntil(), NOW);
});

Deno.test("handle() ends a reconciliation in time, and continues where it was the next time", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 99; number++) add(vapi, `call-${number}`, number * 60_000);
  const reconciled = await reconcile(vapi, NOW, {}, 20);
  assert.ok(!reconciled.isDone && reconciled.received < 99, JSON.stringify(reconciled));
  assert.equal(await reconciledUntil(), null);
  assert.equal((await reconcile(vapi)).received, 99 - reconciled.received);
});

Deno.test("handle() continues past pages that are too large, and past a single call that is too large", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 150; number++) add(vapi, `call-${number}`, number * HOUR);
  const sizes = (list: URLSearchParams) => {
    const within = (id: string) => {
      const made = Date.parse(String(vapi.calls.get(id)!.call.createdAt));
      return made >= Date.parse(list.get("updatedAtGe")!) && made < Date.parse(list.get("updatedAtLt")!);
    };
    return [Number(list.get("limit")), within("call-77")] as const;
  };
  vapi.instead = (request) => {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname !== "/call") return;
    const [limit, hasGiant] = sizes(searchParams);
    vapi.listed.push(searchParams);
    if (limit > 10 || hasGiant) {
      return new Response(new ReadableStream(), { headers: { "content-length": "30000000" } });
    }
  };
  const reconciled = await reconcile(vapi);
  assert.deepEqual([reconciled.received, reconciled.unreadable, reconciled.isDone], [149, 1, true]);
  assert.ok(!(await callIds()).includes("call-77"));
  assert.equal(await reconciledUntil(), NOW);
});

Deno.test("handle() requests smaller pages from a slow provider", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 30; number++) add(vapi, `call-${number}`, number * HOUR);
  vapi.instead = async (request) => {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname !== "/call" || Number(searchParams.get("limit")) <= 10) return;
    await new Promise((resolve) => setTimeout(resolve, 1500));
    return new Response(null, { status: 500 });
  };
  const reconciled = await reconcile(vapi, NOW, { RETROCARE_FETCH_SECONDS: "1" });
  assert.deepEqual([reconciled.received, reconciled.isDone], [30, true]);
});

Deno.test("handle() keeps what it has reconciled when the provider breaks off, and continues from there", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (let number = 0; number < 150; number++) add(vapi, `call-${number}`, number * HOUR);
  const broken = Date.parse(NOW) - 24 * HOUR;
  vapi.instead = (request) => {
    const range = new URL(request.url).searchParams;
    const isNew = range.has("limit") && Date.parse(range.get("updatedAtLt")!) > broken;
    return isNew && vapi.listed.length > 1 ? new Response(null, { status: 502 }) : undefined;
  };
  const reconciled = await reconcile(vapi);
  assert.deepEqual([reconciled.isDone, reconciled.code], [false, "provider_unreachable"]);
  const until = Date.parse((await reconciledUntil())!);
  assert.ok(until > broken - 48 * HOUR && until <= broken, new Date(until).toISOString());
  vapi.instead = () => undefined;
  const pages = vapi.listed.length;
  assert.ok((await reconcile(vapi)).isDone);
  assert.equal(vapi.listed[pages]!.get("updatedAtGe"), new Date(until - HOUR).toISOString());
  assert.equal((await callIds()).length, 150);
});

Deno.test("handle() receives the other calls where the database fails for one, and retries that one", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  for (const id of ["one", "poison", "three"]) add(vapi, id, HOUR);
  await project.sql`alter table public.call_logs add constraint poison check (provider_call_id <> 'poison')`;
  try {
    const reconciled = await reconcile(vapi);
    assert.deepEqual([reconciled.received, reconciled.isDone, reconciled.code], [2, false, "database_unavailable"]);
  } finally {
    await project.sql`alter table public.call_logs drop constraint poison`;
  }
  assert.deepEqual([await callIds(), await reconciledUntil()], [["one", "three"], null]);
  assert.deepEqual([(await reconcile(vapi)).received, await reconciledUntil()], [1, NOW]);
});

Deno.test("handle() continues past a call that it cannot read", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  add(vapi, "a call with spaces", HOUR);
  add(vapi, "readable", 2 * HOUR);
  assert.deepEqual(await reconcile(vapi), { listed: 2, received: 1, unreadable: 1, isDone: true });
  assert.deepEqual(await callIds(), ["readable"]);
});

Deno.test("handle() reconciles nothing without the API's key, and says so", async () => {
  await project.fresh();
  await using vapi = new FakeVapi();
  const reconciled = await reconcile(vapi, NOW, { VAPI_API_KEY: "" });
  assert.deepEqual([reconciled.isDone, reconciled.code], [false, "provider_key_missing"]);
  assert.deepEqual(vapi.requests, []);
  assertDiscreet(lines, [PHONE, "Ana", KEY, "secret-"]);
});
