import assert from "node:assert/strict";
import type { Network } from "../../supabase/functions/_shared/http/pinned_client.ts";
import { readSettings } from "../../supabase/functions/_shared/settings.ts";
import { sms } from "../../supabase/functions/notify-caregiver/channels/sms.ts";
import { backend } from "./backend.ts";
import { CAREGIVER, Deliveries, DELIVERY, PATIENT, PHONE } from "./deliveries.ts";
import { assertDiscreet, environment, listenToLines } from "./serving.ts";
import { type Deed, FakeTwilio, FROM, TOKEN, written } from "./twilio.ts";

const project = await backend();
const deliveries = new Deliveries(project);
const lines = listenToLines();
const SECOND = { sendSeconds: 1 };

Deno.test("sms() hands the finished words to Twilio, once", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  assert.deepEqual(await deliveries.notify(twilio.settings), {
    claimed: 1,
    done: 1,
    lost: 0,
    failed: {},
    isDone: true,
  });
  const [message, ...more] = twilio.messages;
  assert.equal(more.length, 0);
  assert.match(message!.body, /^URGENT: Ana Albuquerque sounded very different/);
  const [request] = twilio.requests;
  assert.deepEqual([...request!.form.keys()].sort(), ["Body", "From", "To"]);
  assert.deepEqual([request!.form.get("To"), request!.form.get("From")], [PHONE, FROM]);
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.attempts, row.provider_message_id], ["accepted", 1, message!.sid]);
  assert.equal((await deliveries.notify(twilio.settings)).claimed, 0);
  assert.equal(twilio.messages.length, 1);
});

Deno.test("sms() sends from a messaging service where one is set", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  await deliveries.notify({ ...twilio.settings, TWILIO_MESSAGING_SERVICE_SID: "MGbbbb" });
  assert.deepEqual([...twilio.requests[0]!.form.keys()].sort(), ["Body", "MessagingServiceSid", "To"]);
  assert.equal(twilio.requests[0]!.form.get("MessagingServiceSid"), "MGbbbb");
});

for (const code of [21211, 21610, 21614]) {
  Deno.test(`sms() gives up a number that Twilio refuses with ${code}`, async () => {
    await project.fresh();
    await deliveries.raise({ phone: PHONE });
    await using twilio = new FakeTwilio();
    twilio.script(PHONE, { status: 400, code });
    assert.deepEqual((await deliveries.notify(twilio.settings)).failed, { [`twilio_${code}`]: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.error_code, row.may_have_been_sent], ["dead", `twilio_${code}`, false]);
    assert.ok(!row.error_message!.includes(PHONE), "Twilio's words quote the number");
  });
}

const TRIED_AGAIN: [Deed, string, boolean][] = [
  [{ status: 429, code: 20429, headers: { "Retry-After": "1" } }, "twilio_busy", false],
  [{ status: 401, code: 20003 }, "twilio_unauthorised", false],
  [{ status: 400, code: 21408 }, "twilio_21408", false],
  [{ status: 400 }, "twilio_400", false],
  [{ status: 404, code: 20404 }, "twilio_20404", false],
  [{ status: 200 }, "twilio_200", true],
  [{ status: 302, headers: { Location: "http://127.0.0.1:1/" } }, "twilio_302", true],
  [{ status: 500 }, "twilio_500", true],
  [{ status: 503 }, "twilio_503", true],
  ["hang", "twilio_unreachable", true],
  ["close", "twilio_unreachable", true],
];

for (const [deed, code, mayHaveBeenSent] of TRIED_AGAIN) {
  Deno.test(`sms() retries after ${JSON.stringify(deed)}, and then sends once`, async () => {
    await project.fresh();
    await deliveries.raise({ phone: PHONE });
    await using twilio = new FakeTwilio();
    twilio.script(PHONE, deed);
    assert.deepEqual((await deliveries.notify(twilio.settings, {}, SECOND)).failed, { [code]: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.error_code, row.may_have_been_sent], ["queued", code, mayHaveBeenSent]);
    assert.equal(twilio.messages.length, 0);
    assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
    assert.equal(twilio.messages.length, 1);
    assert.equal(twilio.count("GET"), mayHaveBeenSent ? 1 : 0);
    assert.equal((await deliveries.row()).state, "accepted");
  });
}

for (const deed of ["take and hang", "take and close"] as const) {
  Deno.test(`sms() finds a message that Twilio accepted before the response was lost (${deed}), and sends no other`, async () => {
    await project.fresh();
    await deliveries.raise({ phone: PHONE });
    await using twilio = new FakeTwilio();
    twilio.script(PHONE, deed);
    await deliveries.notify(twilio.settings, {}, SECOND);
    assert.deepEqual([(await deliveries.row()).state, (await deliveries.row()).may_have_been_sent], ["queued", true]);
    assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
    assert.deepEqual([twilio.count("POST"), twilio.messages.length], [1, 1]);
    assert.equal((await deliveries.row()).provider_message_id, twilio.messages[0]!.sid);
  });
}

Deno.test("sms() looks for the message before it sends one whose last lease ran out", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  const { data } = await project.client.rpc("claim_deliveries", { worker: "gone", count: 1, lease_seconds: 60 });
  const before = twilio.take(PHONE, data[0].message);
  await project.sql`update care.deliveries set leased_until = clock_timestamp() - interval '1 second'`;
  assert.equal((await deliveries.notify(twilio.settings)).done, 1);
  assert.equal(twilio.count("POST"), 0);
  assert.equal((await deliveries.row()).provider_message_id, before.sid);
});

Deno.test("sms() mistakes no other message for its own", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  twilio.script(PHONE, "close");
  await deliveries.notify(twilio.settings);
  const body = twilio.requests[0]!.form.get("Body")!;
  twilio.take(PHONE, body, { date_created: written(new Date(Date.now() - 3_600_000)) });
  twilio.take(PHONE, body, { status: "failed" });
  twilio.take(PHONE, body, { status: "canceled" });
  twilio.take(PHONE, body, { direction: "inbound" });
  twilio.take(PHONE, body, { date_created: "never" });
  twilio.take(PHONE, `${body} And more.`);
  twilio.take(PHONE, `Nobody has answered yet. ${body}`);
  twilio.take("+351910000002", body);
  assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
  assert.equal(twilio.count("POST"), 2);
  assert.equal((await deliveries.row()).provider_message_id, twilio.messages.at(-1)!.sid);
});

Deno.test("sms() recognises its message behind a trial account's prefix, and on a later page", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  twilio.script(PHONE, "close");
  await deliveries.notify(twilio.settings);
  const own = twilio.take(PHONE, `Sent from your Twilio trial account - ${twilio.requests[0]!.form.get("Body")}`);
  for (let number = 0; number < 450; number++) twilio.take(PHONE, `Something else, ${number}`);
  assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
  assert.deepEqual([twilio.count("POST"), twilio.count("GET")], [1, 3]);
  assert.equal((await deliveries.row()).provider_message_id, own.sid);
});

Deno.test("sms() follows a list's next page only within the account's messages", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  twilio.script(PHONE, "close");
  await deliveries.notify(twilio.settings);
  twilio.nextPage = "/elsewhere";
  assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
  assert.ok(!twilio.requests.some((one) => one.target === "/elsewhere"));
});

Deno.test("sms() looks no further back than the message's own time", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  await using twilio = new FakeTwilio();
  const before = written(new Date(Date.now() - 60_000));
  for (let number = 0; number < 450; number++) twilio.take(PHONE, `Long ago, ${number}`, { date_created: before });
  twilio.script(PHONE, "close");
  await deliveries.notify(twilio.settings);
  assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
  assert.equal(twilio.count("GET"), 1);
});

const UNTOLD: [Deed, string][] = [
  [{ status: 500 }, "twilio_500"],
  [{ status: 429, code: 20429 }, "twilio_busy"],
  [{ status: 401, code: 20003 }, "twilio_unauthorised"],
  [{ status: 200 }, "twilio_unreadable"],
  ["close", "twilio_unreachable"],
  ["hang", "twilio_unreachable"],
];

for (const [listing, code] of UNTOLD) {
  Deno.test(`sms() sends nothing as long as Twilio does not list its messages: ${JSON.stringify(listing)}`, async () => {
    await project.fresh();
    await deliveries.raise({ phone: PHONE });
    await using twilio = new FakeTwilio();
    twilio.script(PHONE, "take and close");
    await deliveries.notify(twilio.settings);
    twilio.listing = listing;
    const at = await deliveries.dueAgain();
    assert.deepEqual((await deliveries.notify(twilio.settings, { at }, SECOND)).failed, { [code]: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.attempts, row.may_have_been_sent], ["queued", 2, true]);
    assert.equal(twilio.count("POST"), 1);
    twilio.listing = "take";
    assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
    assert.deepEqual([twilio.count("POST"), twilio.messages.length], [1, 1]);
  });
}

for (const missing of ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM_NUMBER"]) {
  Deno.test(`sms() waits for the operator where ${missing} is not set`, async () => {
    await project.fresh();
    await deliveries.raise({ phone: PHONE });
    await using twilio = new FakeTwilio();
    const { failed } = await deliveries.notify({ ...twilio.settings, [missing]: "" });
    assert.deepEqual(failed, { sms_not_configured: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.error_message, twilio.requests.length], ["queued", `${missing} is not set.`, 0]);
    assert.equal((await deliveries.notify(twilio.settings, { at: await deliveries.dueAgain() })).done, 1);
  });
}

for (const url of ["http://example.org", "ftp://127.0.0.1", "nowhere", "https://user:word@example.org"]) {
  Deno.test(`sms() sends its key to no API at ${url}`, async () => {
    await project.fresh();
    await deliveries.raise({ phone: PHONE });
    await using twilio = new FakeTwilio();
    const { failed } = await deliveries.notify({ ...twilio.settings, TWILIO_API_URL: url });
    assert.deepEqual(failed, { sms_not_configured: 1 });
    assert.equal((await deliveries.row()).state, "queued");
  });
}

Deno.test("sms() records that nothing can have been sent where nobody listens", async () => {
  await project.fresh();
  await deliveries.raise({ phone: PHONE });
  const twilio = new FakeTwilio();
  const { settings } = twilio;
  await twilio[Symbol.asyncDispose]();
  assert.deepEqual((await deliveries.notify(settings)).failed, { twilio_unreachable: 1 });
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.may_have_been_sent], ["queued", false]);
});

Deno.test("sms() uses api.twilio.com, over TLS, where no other URL is set", async () => {
  const connections: [string, number][] = [];
  const network: Network = {
    resolve: (host) => Promise.resolve(host === "api.twilio.com" ? ["93.184.216.34"] : []),
    connect: (address, port) => {
      connections.push([address, port]);
      return Promise.reject(new Deno.errors.ConnectionRefused());
    },
  };
  const account = new Map(
    Object.entries({ TWILIO_ACCOUNT_SID: "AC1", TWILIO_AUTH_TOKEN: TOKEN, TWILIO_FROM_NUMBER: FROM }),
  );
  const tools = { environment: account, settings: readSettings(environment(project), []), network, seconds: 1 };
  await assert.rejects(sms(DELIVERY, tools), { code: "twilio_unreachable", mayHaveBeenSent: false });
  assert.deepEqual(connections, [["93.184.216.34", 443]]);
});

Deno.test("sms() puts no phone number, name, message or key into a log line", () => {
  assert.ok(lines.length > 40);
  assertDiscreet(lines, [PHONE, PHONE.slice(1), PATIENT, CAREGIVER, "URGENT", TOKEN, btoa(TOKEN), "cannot be reached"]);
});
