import assert from "node:assert/strict";
import { handle } from "../../supabase/functions/call-webhook/index.ts";
import { backend } from "./backend.ts";
import { type Generated, generated, MACHINES, type Names } from "./generated_reports.ts";
import { generator } from "./planning.ts";
import { PHONE, Records } from "./records.ts";
import { Background, environment, type Json, listenToLines } from "./serving.ts";

const SECRET = "the-webhook-secret-of-a-test";
const REPORTS = 300;
const seed = Number(Deno.env.get("RETROCARE_TEST_SEED") ?? 1);

const project = await backend();
const records = new Records(project);
listenToLines();

interface Kept {
  readonly id: string;
  readonly patient_id: string;
  readonly check_state: string | null;
  readonly check_reason: string | null;
  readonly url: string | null;
  readonly speech_intervals: readonly (readonly [number, number])[] | null;
  readonly recording_state: string | null;
  readonly source_channel: string | null;
}

async function kept(callId: string): Promise<Kept | undefined> {
  const [call] = await project.sql<Kept[]>`
    select
      call_logs.id, call_logs.patient_id, call_logs.check_state, call_logs.check_reason, call_logs.speech_intervals,
      call_logs.recording_source_url as url, recordings.state as recording_state, recordings.source_channel
    from public.call_logs
    left join care.recordings on recordings.call_log_id = call_logs.id
    where call_logs.provider_call_id = ${callId}`;
  return call;
}

async function post(message: Json, background: Background): Promise<{ status: number; body: Json }> {
  const request = new Request("http://function/call-webhook/vapi", {
    method: "POST",
    headers: { authorization: `Bearer ${SECRET}` },
    body: JSON.stringify({ message }),
  });
  const settings = environment(project, { VAPI_WEBHOOK_SECRET: SECRET, RETROCARE_FETCH_HOSTS: "recordings.example" });
  const answer = await handle(request, settings, background.waitUntil);
  return { status: answer.status, body: await answer.json() };
}

/** Check what came of a report against what its text still contains; returns the kind of report that it was. */
async function check({ message, spoken }: Generated, names: Names, background: Background): Promise<string> {
  const text = JSON.stringify(message);
  const addresses: readonly string[] = text.match(/https:\/\/recordings\.invalid\/[^"]+/g) ?? [];
  const { status, body } = await post(message, background);
  if (!text.includes(`"id":"${names.callId}"`)) {
    // Junk may look like an id; then it is one.
    if (status !== 200) assert.deepEqual([status, body.code], [400, "unreadable_report"]);
    return "of no call";
  }
  assert.equal(status, 200, JSON.stringify(body));
  const call = await kept(names.callId);
  if (!text.includes(names.patientId) && !text.includes(names.phone)) {
    assert.deepEqual([body.disposition, call], ["unmatched", undefined]);
    const [row] = await project.sql`
      select from care.unmatched_calls where provider_call_id = ${names.callId}`;
    assert.ok(row);
    return "unmatched";
  }
  assert.ok(call);
  assert.equal(call.patient_id, names.patientId);
  for (const [start, end] of call.speech_intervals ?? []) {
    const lengths = [...spoken.map(([from, to]) => to - from), 7]; // which is junk that may be a length
    assert.ok(lengths.some((length) => Math.abs(length - (end - start)) < 0.002), `${end - start}: ${lengths}`);
  }
  if (MACHINES.some((reason) => text.includes(`"endedReason":"${reason}"`))) {
    assert.deepEqual([call.check_state, call.check_reason, call.recording_state], ["skipped", "voicemail", null]);
    return "a machine's";
  }
  const isRefused = /"recordingConsent":[[{]/.test(text) && !/"grantedAt":"20[0-9]{2}-(?!99)/.test(text);
  if (isRefused || call.check_reason === "nobody_spoke") {
    assert.equal(call.recording_state, null);
    if (!isRefused) assert.ok(text.includes("silence-timed-out") && !text.includes('"role":"user"'));
    return isRefused ? "no consent" : "silent";
  }
  assert.ok(call.recording_state === "queued" || call.recording_state === "leased", `${call.recording_state}`);
  assert.ok(call.check_reason === null || call.check_reason === "ended_reason_unknown", `${call.check_reason}`);
  if (addresses.length === 0) {
    assert.deepEqual([call.url, call.source_channel], [null, null]);
    return "without address";
  }
  const best = ["customer", "stereo", "mixed"].find((kind) =>
    addresses.some((address) => address.includes(`/${kind}-`))
  );
  assert.ok(addresses.includes(call.url!), call.url!);
  assert.equal(call.source_channel, best);
  return best === "mixed" ? "mixed only" : call.check_reason === null ? "to judge" : "of an unknown end";
}

Deno.test("handle() loses no report and no recording, and has no machine judged, whatever the fields of a report become", async () => {
  await project.fresh();
  const patientId = await records.patient();
  const random = generator(seed);
  const background = new Background();
  const seen = new Map<string, number>();
  for (let number = 0; number < REPORTS; number++) {
    const names = { callId: crypto.randomUUID(), patientId, phone: PHONE, ownPhone: "+351219999999" };
    const report = generated(random, names);
    try {
      const what = await check(report, names, background);
      seen.set(what, (seen.get(what) ?? 0) + 1);
    } catch (error) {
      const shown = JSON.stringify(report.message, (_, value) => Array.isArray(value) ? value.slice(0, 8) : value);
      throw new Error(`RETROCARE_TEST_SEED=${seed}, report ${number}: ${shown.slice(0, 5_000)}`, { cause: error });
    }
  }
  await background.settled();
  const kinds = [
    "of no call",
    "unmatched",
    "a machine's",
    "without address",
    "mixed only",
    "to judge",
    "of an unknown end",
  ];
  for (const what of kinds) assert.ok((seen.get(what) ?? 0) >= 1, `${what}: ${JSON.stringify([...seen])}`);
});
