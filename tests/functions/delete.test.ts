import assert from "node:assert/strict";
import type { Counts } from "../../supabase/functions/_shared/queue.ts";
import { handle } from "../../supabase/functions/delete-recordings/index.ts";
import { backend } from "./backend.ts";
import { CALL, Records, wav } from "./records.ts";
import { assertDiscreet, call, environment, listenToLines, type Reply } from "./serving.ts";
import { FakeVapi } from "./vapi.ts";

const project = await backend();
const records = new Records(project);
const lines = listenToLines();
const LATER = new Date(Date.now() + 86_400_000).toISOString();

/** Erase a patient who has one recording, at the provider and in Storage; returns the patient's id and the path. */
async function erased(): Promise<{ patient: string; path: string }> {
  await project.fresh();
  const patient = await records.patient();
  const call = await records.reported();
  const path = `${patient}/${call}.wav`;
  await project.client.storage.from(project.bucket).upload(path, wav(), { contentType: "audio/wav", upsert: true });
  await project
    .sql`update public.call_logs set recording_ref = ${`storage:${project.bucket}/${path}`} where id = ${call}`;
  await project.sql`select care.erase_patient_voice(${patient}, 'asked for')`;
  return { patient, path };
}

function callFunction(
  vapi: FakeVapi,
  options: unknown = {},
  named: Record<string, string> = {},
  init: RequestInit = {},
): Promise<Reply> {
  return call((request) => handle(request, environment(project, { ...vapi.settings, ...named })), options, init);
}

async function deleteDue(...given: Parameters<typeof callFunction>): Promise<Counts> {
  const { status, body } = await callFunction(...given);
  assert.equal(status, 200, JSON.stringify(body));
  return body.deleted;
}

async function states(): Promise<unknown[]> {
  const rows = await project.sql`select kind, state, error_code from care.deletions order by kind`;
  return rows.map((row) => [row.kind, row.state, row.error_code]);
}

async function stored(path: string): Promise<boolean> {
  return (await project.client.storage.from(project.bucket).download(path)).error === null;
}

Deno.test("handle() deletes an erased recording from Storage and at the provider", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL);
  const { path } = await erased();
  assert.ok(await stored(path));
  assert.deepEqual(await deleteDue(vapi), { claimed: 2, done: 2, lost: 0, failed: {}, isDone: true });
  assert.equal(await stored(path), false);
  assert.equal(vapi.calls.size, 0);
  assert.deepEqual(await states(), [["storage_object", "done", null], ["provider_call", "done", null]]);
  const [noted] = await project
    .sql`select count(*)::int as count from care.audit_log where action = 'deletion_finished'`;
  assert.equal(noted!.count, 2);
  assert.deepEqual(await deleteDue(vapi), { claimed: 0, done: 0, lost: 0, failed: {}, isDone: true });
});

Deno.test("handle() counts as deleted what does not exist any more", async () => {
  await using vapi = new FakeVapi();
  const { path } = await erased();
  await project.client.storage.from(project.bucket).remove([path]);
  assert.deepEqual(await deleteDue(vapi), { claimed: 2, done: 2, lost: 0, failed: {}, isDone: true });
});

Deno.test("handle() takes no deletion on trust, and tries again", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL);
  vapi.keepsDeleted = true;
  await erased();
  const first = await deleteDue(vapi);
  assert.deepEqual([first.claimed, first.done, first.failed], [2, 1, { provider_unreachable: 1 }]);
  assert.deepEqual(await states(), [["storage_object", "done", null], [
    "provider_call",
    "queued",
    "provider_unreachable",
  ]]);
  vapi.keepsDeleted = false;
  assert.deepEqual(await deleteDue(vapi, { at: LATER }), { claimed: 1, done: 1, lost: 0, failed: {}, isDone: true });
  assert.equal(vapi.calls.size, 0);
});

Deno.test("handle() records why the provider does not delete", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL);
  for (
    const [named, code] of [
      [{ VAPI_API_KEY: "wrong" }, "provider_unauthorised"],
      [{ VAPI_API_KEY: "" }, "provider_key_missing"],
      [{ VAPI_API_URL: "http://127.0.0.1:1" }, "provider_unreachable"],
    ] as const
  ) {
    await erased();
    assert.deepEqual((await deleteDue(vapi, {}, named)).failed, { [code]: 1 });
  }
  assert.equal(vapi.calls.size, 1);
});

Deno.test("handle() refuses a caller without the functions' key, and options that it does not know", async () => {
  await using vapi = new FakeVapi();
  assert.equal((await callFunction(vapi, {}, {}, { headers: {} })).status, 401);
  assert.equal((await callFunction(vapi, { at: "yesterday" })).status, 400);
  assert.equal((await callFunction(vapi, [])).status, 400);
});

Deno.test("handle() puts no person, key or path into a log line", () => {
  assert.ok(lines.length > 0);
  assertDiscreet(lines, ["Ana", "+351", "vapi-private-key", ".wav"]);
});
