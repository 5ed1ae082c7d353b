import assert from "node:assert/strict";
import { handle } from "../../supabase/functions/notify-caregiver/index.ts";
import { backend } from "./backend.ts";
import { CAREGIVER, Deliveries, PATIENT, PHONE } from "./deliveries.ts";
import { assertDiscreet, call, environment, FUNCTIONS_KEY, listenToLines, serve } from "./serving.ts";
import { FakeTwilio } from "./twilio.ts";

const project = await backend();
const deliveries = new Deliveries(project);
const lines = listenToLines();
const KEY = { authorization: `Bearer ${FUNCTIONS_KEY}` };

function phone(number: number): string {
  return `+3519100001${String(number).padStart(2, "0")}`;
}

async function refusal(
  init: RequestInit,
  settings: Record<string, string> = {},
): Promise<{ status: number; code: string }> {
  const given = { headers: {}, body: null, ...init };
  const { status, body } = await call((request) => handle(request, environment(project, settings)), "", given);
  return { status, code: body.code };
}

const REFUSED: [string, RequestInit, number, string, Record<string, string>?][] = [
  ["no key", {}, 401, "unauthorized"],
  ["another key", { headers: { authorization: "Bearer another" } }, 401, "unauthorized"],
  ["the project's key", { headers: { authorization: `Bearer ${project.serviceKey}` } }, 401, "unauthorized"],
  ["no key that is expected", { headers: KEY }, 500, "not_configured", { RETROCARE_FUNCTIONS_KEY: "" }],
  ["GET", { method: "GET", headers: KEY }, 405, "method_not_allowed"],
  ["no JSON", { headers: KEY, body: "{" }, 400, "not_json"],
  ["a list", { headers: KEY, body: "[]" }, 400, "bad_request"],
  ["a moment that is none", { headers: KEY, body: '{"at": "soon"}' }, 400, "bad_request"],
  ["too much", { headers: KEY, body: " ".repeat(20_000) }, 413, "too_large"],
  ["no address of the project", { headers: KEY }, 500, "not_configured", { SUPABASE_URL: "" }],
  ["a database that is away", { headers: KEY }, 503, "database_unavailable", { SUPABASE_URL: "http://127.0.0.1:1" }],
];

for (const [name, init, status, code, settings] of REFUSED) {
  Deno.test(`handle() refuses a request with ${name}, and nothing is claimed`, async () => {
    await project.fresh();
    await using twilio = new FakeTwilio();
    await deliveries.raise({ phone: PHONE });
    assert.deepEqual(await refusal(init, { ...twilio.settings, ...settings }), { status, code });
    assert.deepEqual([(await deliveries.row()).attempts, twilio.requests.length], [0, 0]);
  });
}

Deno.test("deliver() sends everything that is due; one that fails stops no other", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  for (let number = 0; number < 12; number++) await deliveries.raise({ phone: phone(number) });
  twilio.script(phone(0), { status: 400, code: 21211 });
  twilio.script(phone(1), "hang");
  twilio.script(phone(2), "close");
  twilio.script(phone(3), { status: 500 });
  const { claimed, done, failed, isDone } = await deliveries.notify(twilio.settings, {}, { sendSeconds: 1 });
  assert.deepEqual([claimed, done, isDone], [12, 8, true]);
  assert.deepEqual(failed, { twilio_21211: 1, twilio_unreachable: 2, twilio_500: 1 });
  assert.equal(new Set(twilio.messages.map((message) => message.to)).size, 8);
});

Deno.test("deliver() uses each channel of a caregiver, whatever comes of the others", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  await using host = serve(() => new Response());
  await deliveries.raise({ phone: PHONE, webhook_url: host.url });
  twilio.script(PHONE, { status: 400, code: 21610 });
  const named = { RETROCARE_FETCH_PRIVATE_HOSTS: `${twilio.settings.RETROCARE_FETCH_PRIVATE_HOSTS},${host.named}` };
  const { done, failed } = await deliveries.notify({ ...twilio.settings, ...named, ALERT_WEBHOOK_SECRET: "s" });
  assert.deepEqual([done, failed], [1, { twilio_21610: 1 }]);
  const states = (await deliveries.rows()).map((row) => [row.channel, row.state]).sort();
  assert.deepEqual(states, [["sms", "dead"], ["webhook", "accepted"]]);
});

Deno.test("deliver() sends up to four messages at once", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  for (let number = 0; number < 12; number++) await deliveries.raise({ phone: phone(number) });
  let open = 0, most = 0;
  twilio.meanwhile = async () => {
    most = Math.max(most, ++open);
    await new Promise((resolve) => setTimeout(resolve, 50));
    open--;
  };
  assert.equal((await deliveries.notify(twilio.settings)).done, 12);
  assert.ok(most > 1 && most <= 4, `${most}`);
});

Deno.test("deliver() sends each message once, in several runs at the same time", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  for (let number = 0; number < 12; number++) await deliveries.raise({ phone: phone(number) });
  const runs = await Promise.all([1, 2, 3].map(() => deliveries.notify(twilio.settings)));
  assert.equal(runs.reduce((sum, run) => sum + run.done, 0), 12);
  assert.deepEqual(twilio.messages.map((message) => message.to).sort(), [...Array(12).keys()].map(phone));
});

Deno.test("deliver() claims nothing when its time is over, and what is due stays due", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  await deliveries.raise({ phone: PHONE });
  const { claimed, isDone } = await deliveries.notify(twilio.settings, {}, { runMilliseconds: 0 });
  assert.deepEqual([claimed, isDone], [0, false]);
  assert.equal((await deliveries.row()).state, "queued");
  twilio.meanwhile = () => new Promise((resolve) => setTimeout(resolve, 400));
  for (let number = 0; number < 12; number++) await deliveries.raise({ phone: phone(number) });
  const some = await deliveries.notify(twilio.settings, {}, { runMilliseconds: 300 });
  assert.deepEqual([some.done, some.isDone], [4, false]);
  assert.equal((await deliveries.rows()).filter((row) => row.state === "queued").length, 9);
});

Deno.test("deliver() works as of the given time: a warning of the night is sent in the morning", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  await deliveries.raise({ phone: PHONE }, "warning", new Date("2026-11-21T02:00:00Z"));
  assert.equal((await deliveries.notify(twilio.settings, { at: "2026-11-21T03:00:00Z" })).claimed, 0);
  twilio.script(PHONE, { status: 429 });
  await deliveries.notify(twilio.settings, { at: "2026-11-21T12:00:00Z" });
  const waits = Date.parse(String((await deliveries.row()).run_at)) - Date.parse("2026-11-21T12:00:00Z");
  assert.ok(waits > 0 && waits < 60_000, `${waits}`);
  assert.equal((await deliveries.notify(twilio.settings, { at: "2026-11-21T13:00:00Z" })).done, 1);
  const { finished_at } = await deliveries.row();
  assert.equal(new Date(String(finished_at)).toISOString(), "2026-11-21T13:00:00.000Z");
});

Deno.test("deliver() does not count a message as sent if its lease was lost", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  await deliveries.raise({ phone: PHONE });
  twilio.meanwhile = async () =>
    void await project.sql`update care.deliveries set lease_token = gen_random_uuid(), worker = 'another'`;
  const { claimed, done, lost } = await deliveries.notify(twilio.settings);
  assert.deepEqual([claimed, done, lost], [1, 0, 1]);
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.worker], ["leased", "another"]);
});

Deno.test("deliver() sends no second message if the database was away when the first was accepted", async () => {
  await project.fresh();
  await using twilio = new FakeTwilio();
  await deliveries.raise({ phone: PHONE });
  const rename = (from: string, to: string) => project.sql.unsafe(`alter function public.${from} rename to ${to}`);
  twilio.meanwhile = async () => void await rename("finish_delivery", "away");
  try {
    assert.deepEqual(await refusal({ headers: KEY }, twilio.settings), { status: 503, code: "database_unavailable" });
  } finally {
    await rename("away", "finish_delivery");
  }
  assert.equal((await deliveries.row()).state, "leased");
  await project.sql`update care.deliveries set leased_until = clock_timestamp() - interval '1 second'`;
  assert.equal((await deliveries.notify(twilio.settings)).done, 1);
  assert.deepEqual([twilio.count("POST"), twilio.messages.length], [1, 1]);
});

for (const channel of ["pigeon", "constructor", "default", "__proto__"]) {
  Deno.test(`deliver() keeps a message for the channel ${channel}, which is not deployed`, async () => {
    await project.fresh();
    await project.sql`insert into care.delivery_channels values (${channel}, true)`;
    const addresses = JSON.parse(`{"${channel}": "the loft"}`);
    await deliveries.raise({ other_addresses: addresses });
    assert.deepEqual((await deliveries.notify({})).failed, { unknown_channel: 1 });
    assert.equal((await deliveries.row()).state, "queued");
  });
}

Deno.test("notify-caregiver runs by itself: console is one line on standard output, and the log has no names", async () => {
  await project.fresh();
  await project.sql`update care.delivery_channels set is_enabled = id = 'console'`;
  await deliveries.raise({ name: "Bento\nAlbuquerque" });
  const main = new URL("../../supabase/functions/notify-caregiver/index.ts", import.meta.url).pathname;
  const config = new URL("deno.json", import.meta.url).pathname;
  const port = freePort();
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-env", "--allow-net", "--allow-sys", "--config", config, main],
    env: { ...Object.fromEntries(environment(project)), DENO_SERVE_ADDRESS: `tcp:127.0.0.1:${port}`, NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const output = child.output();
  try {
    const answer = await untilUp(() => fetch(`http://127.0.0.1:${port}/`, { method: "POST", headers: KEY }));
    assert.equal((await answer.json()).delivered.done, 1);
  } finally {
    child.kill("SIGTERM");
  }
  const { stdout, stderr } = await output;
  const printed = new TextDecoder().decode(stdout).split("\n").filter((line) => !line.startsWith("Listening"));
  assert.equal(printed.filter((line) => line !== "").length, 1);
  assert.match(printed[0]!, /^emergency for Bento Albuquerque: URGENT: Ana Albuquerque sounded/);
  const logged = new TextDecoder().decode(stderr).split("\n").filter((line) => line.startsWith("{"));
  assert.ok(logged.some((line) => JSON.parse(line).event === "delivery_accepted"));
  for (const line of logged) assert.ok(!/Bento|Ana|URGENT/.test(line), line);
});

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

async function untilUp(attempt: () => Promise<Response>): Promise<Response> {
  for (let tries = 0; tries < 200; tries++) {
    try {
      return await attempt();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
  throw new Error("it does not start");
}

Deno.test("handle() puts no phone number, name or message into a log line", () => {
  assert.ok(lines.length > 40);
  assertDiscreet(lines, ["+3519", PATIENT, CAREGIVER, "URGENT", "the loft", FUNCTIONS_KEY]);
});
