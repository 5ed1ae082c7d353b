import assert from "node:assert/strict";
import { handle } from "../../supabase/functions/delete-recordings/index.ts";
import { backend } from "./backend.ts";
import { CALL, Records, wav } from "./records.ts";
import { assertDiscreet, environment, listenToLines, serve } from "./serving.ts";
import { FakeVapi } from "./vapi.ts";

const project = await backend();
const records = new Records(project);
const lines = listenToLines();
const LATER = new Date(Date.now() + 86_400_000).toISOString();

/** A patient with one recording, at the provider and in Storage, who is then erased. Give the patient and the path. */
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

async function ask(vapi: FakeVapi, body: unknown = {}, named: Record<string, string> = {}): Promise<Response> {
  const settings = environment(project, { ...vapi.settings, ...named });
  await using served = serve((request) => handle(request, settings));
  const answer = await fetch(served.url, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { authorization: `Bearer ${settings.get("RETROCARE_FUNCTIONS_KEY")}` },
  });
  return new Response(await answer.text(), answer);
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
  const answer = await ask(vapi);
  assert.deepEqual(await answer.json(), { deleted: { claimed: 2, done: 2, failed: {} } });
  assert.equal(await stored(path), false);
  assert.equal(vapi.calls.size, 0);
  assert.deepEqual(await states(), [["storage_object", "done", null], ["provider_call", "done", null]]);
  const [noted] = await project
    .sql`select count(*)::int as count from care.audit_log where action = 'deletion_finished'`;
  assert.equal(noted!.count, 2);
  assert.deepEqual(await (await ask(vapi)).json(), { deleted: { claimed: 0, done: 0, failed: {} } });
});

Deno.test("handle() takes what is not there any more as deleted", async () => {
  await using vapi = new FakeVapi();
  const { path } = await erased();
  await project.client.storage.from(project.bucket).remove([path]);
  assert.deepEqual(await (await ask(vapi)).json(), { deleted: { claimed: 2, done: 2, failed: {} } });
});

Deno.test("handle() believes no deletion that it does not see, and tries again", async () => {
  await using vapi = new FakeVapi();
  vapi.add(CALL);
  vapi.forgetsNothing = true;
  await erased();
  assert.deepEqual(await (await ask(vapi)).json(), {
    deleted: { claimed: 2, done: 1, failed: { provider_unreachable: 1 } },
  });
  assert.deepEqual(await states(), [["storage_object", "done", null], [
    "provider_call",
    "queued",
    "provider_unreachable",
  ]]);
  vapi.forgetsNothing = false;
  assert.deepEqual(await (await ask(vapi, { at: LATER })).json(), { deleted: { claimed: 1, done: 1, failed: {} } });
  assert.equal(vapi.calls.size, 0);
});

Deno.test("handle() says why the provider does not delete", async () => {
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
    const answer = await (await ask(vapi, {}, named)).json();
    assert.deepEqual(answer.deleted.failed, { [code]: 1 });
  }
  assert.equal(vapi.calls.size, 1);
});

Deno.test("handle() is asked with the functions' key and a moment", async () => {
  await using vapi = new FakeVapi();
  await using served = serve((request) => handle(request, environment(project, vapi.settings)));
  const nobody = await fetch(served.url, { method: "POST" });
  assert.equal(nobody.status, 401);
  await nobody.body?.cancel();
  assert.equal((await ask(vapi, { at: "yesterday" })).status, 400);
  assert.equal((await ask(vapi, [])).status, 400);
});

Deno.test("handle() writes no person, key or path into a line", () => {
  assert.ok(lines.length > 0);
  assertDiscreet(lines, ["Ana", "+351", "vapi-private-key", ".wav"]);
});
