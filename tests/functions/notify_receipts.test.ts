import assert from "node:assert/strict";
import type { Counts } from "../../supabase/functions/_shared/queue.ts";
import { handle } from "../../supabase/functions/notify-caregiver/index.ts";
import { backend } from "./backend.ts";
import { Deliveries, PATIENT, PHONE } from "./deliveries.ts";
import { assertDiscreet, environment, listenToLines, run } from "./serving.ts";
import { FakeTwilio, TOKEN } from "./twilio.ts";

const MINUTE = 60_000;

const project = await backend();
const deliveries = new Deliveries(project);
const lines = listenToLines();

/** The counts of a run with one receipt. */
function one(failed: Record<string, number> = {}): Counts {
  return { claimed: 1, done: Object.keys(failed).length ? 0 : 1, lost: 0, failed, isDone: true };
}

/** Send a caregiver a text message; returns a function that collects its receipt, some minutes after it was accepted. */
async function sent(twilio: FakeTwilio): Promise<(minutes: number) => Promise<Counts>> {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  assert.equal((await deliveries.notify(twilio.settings)).done, 1);
  const accepted = Date.parse(String((await deliveries.row()).finished_at));
  return async (minutes) => {
    const at = new Date(accepted + minutes * MINUTE + 1_000).toISOString();
    const settings = environment(project, twilio.settings);
    return (await run((request) => handle(request, settings, { sendSeconds: 1 }), { at })).receipts;
  };
}

Deno.test("handle() asks Twilio whether a message arrived, until it did", async () => {
  await using twilio = new FakeTwilio();
  const collectReceipts = await sent(twilio);
  assert.equal((await collectReceipts(1)).claimed, 0);
  assert.deepEqual(await collectReceipts(2), one({ receipt_pending: 1 }));
  assert.match(twilio.requests.at(-1)!.target, /\/Messages\/SM0+1\.json$/);
  twilio.report("delivered");
  assert.deepEqual(await collectReceipts(10), one());
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.error_code, row.delivered_at !== null], ["accepted", null, true]);
  assert.equal((await collectReceipts(60)).claimed, 0);
  assert.equal(twilio.count("POST"), 1);
});

for (const status of ["undelivered", "failed"]) {
  Deno.test(`handle() leaves a message that is ${status} to the operator`, async () => {
    await using twilio = new FakeTwilio();
    const collectReceipts = await sent(twilio);
    twilio.report(status, 30003);
    assert.deepEqual(await collectReceipts(2), one({ undelivered: 1 }));
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.error_code], ["dead", "undelivered"]);
    assert.match(row.error_message!, /\(30003\)/);
    const issues = await project.sql`select kind, code from public.operator_issues order by kind`;
    assert.deepEqual([...issues].map(({ kind, code }) => [kind, code]), [
      ["delivery_dead", "undelivered"],
      ["alert_untold", "nobody_reachable"],
    ]);
  });
}

Deno.test("handle() asks three times for a receipt that does not come, and the message stays accepted", async () => {
  await using twilio = new FakeTwilio();
  const collectReceipts = await sent(twilio);
  twilio.report("sent");
  twilio.receipt = { status: 503 };
  assert.deepEqual(await collectReceipts(2), one({ twilio_503: 1 }));
  twilio.receipt = "close";
  assert.deepEqual(await collectReceipts(10), one({ twilio_unreachable: 1 }));
  twilio.receipt = "take";
  assert.deepEqual(await collectReceipts(60), one({ receipt_pending: 1 }));
  assert.equal((await collectReceipts(600)).claimed, 0);
  assert.equal((await deliveries.row()).state, "accepted");
});

Deno.test("handle() asks once in a run, though every time to ask has passed", async () => {
  await using twilio = new FakeTwilio();
  const collectReceipts = await sent(twilio);
  twilio.report("sent");
  assert.deepEqual(await collectReceipts(600), one({ receipt_pending: 1 }));
  twilio.report("delivered");
  assert.deepEqual(await collectReceipts(601), one());
});

Deno.test("handle() puts no phone number, name or key into a log line about receipts", () => {
  assert.ok(
    lines.some((line) => line.includes("message_undelivered")) && lines.some((line) => line.includes("receipt_failed")),
  );
  assertDiscreet(lines, [PHONE, PHONE.slice(1), PATIENT, TOKEN, "cannot be reached"]);
});
