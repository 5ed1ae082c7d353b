import assert from "node:assert/strict";
import { handle } from "../../supabase/functions/notify-caregiver/index.ts";
import { backend } from "./backend.ts";
import { Deliveries, PATIENT, PHONE } from "./deliveries.ts";
import { assertDiscreet, environment, FUNCTIONS_KEY, listenToLines } from "./serving.ts";
import { FakeTwilio, TOKEN } from "./twilio.ts";

const MINUTE = 60_000;

const project = await backend();
const deliveries = new Deliveries(project);
const lines = listenToLines();

interface Receipts {
  readonly asked: number;
  readonly delivered: number;
  readonly undelivered: number;
}

/** A caregiver has been sent a text message; give how to ask for its receipt so many minutes later. */
async function sent(twilio: FakeTwilio): Promise<(minutes: number) => Promise<Receipts>> {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  assert.equal((await deliveries.notify(twilio.settings)).accepted, 1);
  const accepted = Date.parse(String((await deliveries.row()).finished_at));
  return async (minutes) => {
    const request = new Request("http://function", {
      method: "POST",
      headers: { authorization: `Bearer ${FUNCTIONS_KEY}` },
      body: JSON.stringify({ at: new Date(accepted + minutes * MINUTE + 1_000).toISOString() }),
    });
    const answer = await handle(request, environment(project, twilio.settings), { sendSeconds: 1 });
    assert.equal(answer.status, 200);
    return (await answer.json()).receipts;
  };
}

Deno.test("handle() asks Twilio whether a message arrived, and is content when it did", async () => {
  await using twilio = new FakeTwilio();
  const ask = await sent(twilio);
  assert.equal((await ask(1)).asked, 0);
  assert.deepEqual(await ask(2), { asked: 1, delivered: 0, undelivered: 0 });
  assert.match(twilio.asked.at(-1)!.target, /\/Messages\/SM0+1\.json$/);
  twilio.report("delivered");
  assert.deepEqual(await ask(10), { asked: 1, delivered: 1, undelivered: 0 });
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.error_code, row.delivered_at !== null], ["accepted", null, true]);
  assert.equal((await ask(60)).asked, 0);
  assert.equal(twilio.count("POST"), 1);
});

for (const status of ["undelivered", "failed"]) {
  Deno.test(`handle() makes a message that is ${status} the operator's`, async () => {
    await using twilio = new FakeTwilio();
    const ask = await sent(twilio);
    twilio.report(status, 30003);
    assert.deepEqual(await ask(2), { asked: 1, delivered: 0, undelivered: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.error_code], ["dead", "undelivered"]);
    assert.match(row.error_message!, /\(30003\)/);
    const troubles = await project.sql`select kind, code from public.operator_issues order by kind`;
    assert.deepEqual([...troubles].map(({ kind, code }) => [kind, code]), [
      ["delivery_dead", "undelivered"],
      ["alert_untold", "nobody_reachable"],
    ]);
  });
}

Deno.test("handle() asks three times for a receipt that does not come, and lets the message be", async () => {
  await using twilio = new FakeTwilio();
  const ask = await sent(twilio);
  twilio.report("sent");
  twilio.receipt = { status: 503 };
  assert.deepEqual(await ask(2), { asked: 1, delivered: 0, undelivered: 0 });
  twilio.receipt = "close";
  assert.deepEqual(await ask(10), { asked: 1, delivered: 0, undelivered: 0 });
  twilio.receipt = "take";
  assert.deepEqual(await ask(60), { asked: 1, delivered: 0, undelivered: 0 });
  assert.equal((await ask(600)).asked, 0);
  assert.equal((await deliveries.row()).state, "accepted");
});

Deno.test("handle() leaves no number, name or key in the lines about receipts", () => {
  assert.ok(
    lines.some((line) => line.includes("message_undelivered")) && lines.some((line) => line.includes("receipt_failed")),
  );
  assertDiscreet(lines, [PHONE, PHONE.slice(1), PATIENT, TOKEN, "cannot be reached"]);
});
