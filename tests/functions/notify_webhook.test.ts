import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import type { Network } from "../../supabase/functions/_shared/http/pinned_client.ts";
import { readSettings } from "../../supabase/functions/_shared/settings.ts";
import { DeliveryFailure } from "../../supabase/functions/notify-caregiver/channel.ts";
import { webhook } from "../../supabase/functions/notify-caregiver/channels/webhook.ts";
import { backend } from "./backend.ts";
import { CAREGIVER, Deliveries, DELIVERY, PATIENT } from "./deliveries.ts";
import { started } from "./programs.ts";
import { assertDiscreet, environment, listenToLines, serve, type Served, speak } from "./serving.ts";

const SECRET = "the-alert-secret-of-a-test";
const QUERY = "a-query-that-is-a-secret";

const project = await backend();
const deliveries = new Deliveries(project);
const lines = listenToLines();
const { line: corpus } = await started<{ host: number; secure: Record<string, number>; authority: string }>(
  "corpus.py",
);

interface Received {
  readonly path: string;
  readonly body: string;
  readonly headers: Headers;
}

/** A receiver that answers each of these in turn, then 200; it records each request, and verifies its signature. */
function receiver(...answers: (number | Response)[]): Served & { readonly received: Received[] } {
  const received: Received[] = [];
  const served = serve(async (request) => {
    const body = await request.text();
    const { origin, pathname, search } = new URL(request.url);
    const timestamp = request.headers.get("x-retrocare-timestamp") ?? "";
    const address = pathname === "/" ? origin : origin + pathname + search;
    const secret = createHmac("sha256", SECRET).update(address).digest("hex");
    assert.equal(
      request.headers.get("x-retrocare-signature"),
      createHmac("sha256", secret).update(`${timestamp}.${body}`).digest("hex"),
    );
    assert.ok(Math.abs(Date.now() / 1000 - Number(timestamp)) < 5);
    received.push({ path: pathname + search, body, headers: request.headers });
    const answer = answers.shift() ?? 200;
    return answer instanceof Response ? answer : new Response(null, { status: answer });
  });
  return { ...served, received };
}

function settings(to: Served): Record<string, string> {
  return { ALERT_WEBHOOK_SECRET: SECRET, RETROCARE_FETCH_PRIVATE_HOSTS: to.named };
}

Deno.test("webhook() posts the alert, signed", async () => {
  await project.fresh();
  await using host = receiver();
  const patientId = await deliveries.raise({ webhook_url: `${host.url}/alerts?key=${QUERY}` });
  assert.equal((await deliveries.notify(settings(host))).done, 1);
  const [post, ...more] = host.received;
  assert.equal(more.length, 0);
  const row = await deliveries.row();
  const { message, sent_at, ...sent } = JSON.parse(post!.body);
  assert.deepEqual(sent, {
    type: "alert",
    alert_id: row.alert_id,
    call_log_id: null,
    change: "opened",
    level: "emergency",
    patient_id: patientId,
    delivery_id: Number(row.id),
  });
  assert.match(message, /^URGENT: Ana Albuquerque sounded very different/);
  assert.ok(Math.abs(Date.now() - Date.parse(sent_at)) < 5_000);
  assert.equal(post!.path, `/alerts?key=${QUERY}`);
  assert.equal(post!.headers.get("content-type"), "application/json");
  assert.equal(post!.headers.get("idempotency-key"), row.idempotency_key);
  assert.deepEqual([row.state, row.provider_message_id], ["accepted", null]);
});

Deno.test("webhook() signs with a secret of each receiver's own, always the same for one receiver", async () => {
  await project.fresh();
  await using host = receiver();
  const addresses = [`${host.url}/one`, `${host.url}/two`];
  for (const webhook_url of addresses) await deliveries.raise({ webhook_url });
  assert.equal((await deliveries.notify(settings(host))).done, 2);
  const secrets = addresses.map((address) => createHmac("sha256", SECRET).update(address).digest("hex"));
  assert.notEqual(secrets[0], secrets[1]);
  for (const { path, headers, body } of host.received) {
    const signed = `${headers.get("x-retrocare-timestamp")}.${body}`;
    const fits = [...secrets, SECRET].map((secret) =>
      createHmac("sha256", secret).update(signed).digest("hex") === headers.get("x-retrocare-signature")
    );
    assert.deepEqual(fits, [path === "/one", path === "/two", false], path);
  }
});

for (const status of [200, 201, 202, 204]) {
  Deno.test(`webhook() counts ${status} as accepted`, async () => {
    await project.fresh();
    await using host = receiver(status);
    await deliveries.raise({ webhook_url: host.url });
    assert.equal((await deliveries.notify(settings(host))).done, 1);
  });
}

for (const status of [404, 410]) {
  Deno.test(`webhook() gives up a URL that answers ${status}`, async () => {
    await project.fresh();
    await using host = receiver(status);
    await deliveries.raise({ webhook_url: host.url });
    assert.deepEqual((await deliveries.notify(settings(host))).failed, { [`webhook_${status}`]: 1 });
    assert.equal((await deliveries.row()).state, "dead");
  });
}

for (const status of [400, 401, 403, 408, 429, 500, 503]) {
  Deno.test(`webhook() retries after ${status}, with the same key and a new signature`, async () => {
    await project.fresh();
    await using host = receiver(status);
    await deliveries.raise({ webhook_url: host.url });
    assert.deepEqual((await deliveries.notify(settings(host))).failed, { [`webhook_${status}`]: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.may_have_been_sent], ["queued", status >= 500]);
    assert.equal((await deliveries.notify(settings(host), { at: await deliveries.dueAgain() })).done, 1);
    const keys = host.received.map((post) => post.headers.get("idempotency-key"));
    assert.deepEqual(keys, [row.idempotency_key, row.idempotency_key]);
  });
}

for (const status of [301, 302, 303, 307, 308]) {
  Deno.test(`webhook() does not follow a ${status}`, async () => {
    await project.fresh();
    await using elsewhere = receiver();
    await using host = receiver(new Response(null, { status, headers: { location: elsewhere.url } }));
    await deliveries.raise({ webhook_url: host.url });
    const named = { RETROCARE_FETCH_PRIVATE_HOSTS: `${host.named},${elsewhere.named}` };
    assert.deepEqual((await deliveries.notify({ ...settings(host), ...named })).failed, { [`webhook_${status}`]: 1 });
    assert.deepEqual([host.received.length, elsewhere.received.length], [1, 0]);
    assert.equal((await deliveries.row()).state, "queued");
  });
}

Deno.test("webhook() records that a POST without a response may have arrived", async () => {
  await project.fresh();
  await using host = speak(async (connection) =>
    void await connection.read(new Uint8Array(1)).then(() => silence(connection))
  );
  await deliveries.raise({ webhook_url: host.url });
  assert.deepEqual((await deliveries.notify(settings(host), {}, { sendSeconds: 1 })).failed, {
    webhook_unreachable: 1,
  });
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.may_have_been_sent], ["queued", true]);
});

Deno.test("webhook() does not wait for the body of a response", async () => {
  await project.fresh();
  await using host = speak(async (connection) => {
    await connection.write(new TextEncoder().encode("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"));
    await silence(connection);
  });
  await deliveries.raise({ webhook_url: host.url });
  const begun = performance.now();
  assert.equal((await deliveries.notify(settings(host))).done, 1);
  assert.ok(performance.now() - begun < 5_000);
});

async function silence(connection: Deno.Conn): Promise<void> {
  const rest = new Uint8Array(65_536);
  while (await connection.read(rest) !== null);
}

Deno.test("webhook() records that nothing can have been sent where nobody listens", async () => {
  await project.fresh();
  const host = receiver();
  await host[Symbol.asyncDispose]();
  await deliveries.raise({ webhook_url: host.url });
  assert.deepEqual((await deliveries.notify(settings(host))).failed, { webhook_unreachable: 1 });
  const row = await deliveries.row();
  assert.deepEqual([row.state, row.may_have_been_sent], ["queued", false]);
});

const REFUSED = [
  "http://example.org/alerts",
  "https://example.org:8443/alerts",
  "https://user:word@example.org/alerts",
  "https://127.0.0.1/alerts",
  "https://localhost/alerts",
  "https://10.1.2.3/alerts",
  "https://192.168.0.1/alerts",
  "https://169.254.169.254/latest/meta-data",
  "https://[::1]/alerts",
  "https://[::ffff:10.0.0.1]/alerts",
  "https://[fd00::1]/alerts",
  "ftp://example.org/alerts",
  "example.org",
  "https://exa mple.org/",
];

for (const address of REFUSED) {
  Deno.test(`webhook() sends nothing to ${address}`, async () => {
    await project.fresh();
    await deliveries.raise({ webhook_url: address });
    const { failed } = await deliveries.notify({ ALERT_WEBHOOK_SECRET: SECRET });
    assert.deepEqual(failed, { webhook_refused: 1 });
    const row = await deliveries.row();
    assert.deepEqual([row.state, row.may_have_been_sent], ["dead", false]);
  });
}

/** A network in which each name resolves to these addresses, and each connection is made to a port of loopback. */
function rerouted(addresses: string[], port: number): { network: Network; connected: string[] } {
  const connected: string[] = [];
  const network: Network = {
    resolve: () => Promise.resolve(addresses),
    connect: (address) => {
      connected.push(address);
      return Deno.connect({ hostname: "127.0.0.1", port });
    },
    caCerts: [corpus.authority],
  };
  return { network, connected };
}

async function codeOf(network: Network): Promise<string | null> {
  const secret = new Map([["ALERT_WEBHOOK_SECRET", SECRET]]);
  const tools = { environment: secret, settings: readSettings(environment(project), []), network, seconds: 1 };
  try {
    return await webhook({ ...DELIVERY, address: "https://recordings.example/hello" }, tools);
  } catch (error) {
    assert.ok(error instanceof DeliveryFailure);
    return error.code;
  }
}

Deno.test("webhook() posts over TLS to any public host", async () => {
  const { network, connected } = rerouted(["93.184.216.34"], corpus.secure.good!);
  assert.equal(await codeOf(network), null);
  assert.deepEqual(connected, ["93.184.216.34"]);
});

Deno.test("webhook() sends nothing to a host without a certificate for its name", async () => {
  for (const [name, port] of Object.entries({ ...corpus.secure, plain: corpus.host })) {
    if (name !== "good") {
      assert.equal(await codeOf(rerouted(["93.184.216.34"], port).network), "webhook_unreachable", name);
    }
  }
});

Deno.test("webhook() sends nothing where a public name resolves to a private address", async () => {
  const { network, connected } = rerouted(["93.184.216.34", "10.0.0.1"], corpus.secure.good!);
  assert.equal(await codeOf(network), "webhook_refused");
  assert.deepEqual(connected, []);
});

Deno.test("webhook() sends nothing to the function's own host, unless RETROCARE_FETCH_PRIVATE_HOSTS names it", async () => {
  await project.fresh();
  await using host = receiver();
  await deliveries.raise({ webhook_url: host.url });
  assert.deepEqual((await deliveries.notify({ ALERT_WEBHOOK_SECRET: SECRET })).failed, { webhook_refused: 1 });
  assert.equal(host.received.length, 0);
});

Deno.test("webhook() waits for the operator where ALERT_WEBHOOK_SECRET is not set", async () => {
  await project.fresh();
  await using host = receiver();
  await deliveries.raise({ webhook_url: host.url });
  assert.deepEqual((await deliveries.notify({ ...settings(host), ALERT_WEBHOOK_SECRET: "" })).failed, {
    webhook_not_configured: 1,
  });
  assert.deepEqual([(await deliveries.row()).state, host.received.length], ["queued", 0]);
  assert.equal((await deliveries.notify(settings(host), { at: await deliveries.dueAgain() })).done, 1);
});

Deno.test("webhook() puts no URL, name, message or secret into a log line or the outbox", async () => {
  await project.fresh();
  await using host = receiver(500);
  await deliveries.raise({ webhook_url: `${host.url}/alerts?key=${QUERY}` });
  await deliveries.notify(settings(host));
  const row = await deliveries.row();
  assertDiscreet(lines, [QUERY, host.named, "example.org", PATIENT, CAREGIVER, "URGENT", SECRET]);
  assert.ok(!`${row.error_code} ${row.error_message}`.includes(QUERY));
});
