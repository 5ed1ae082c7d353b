/**
 * What every phone provider must do, asked of Vapi and of Parley, a second provider that lives in parley/ and has all that is
 * needed to add one: its folder, an entry in a registry (the last argument of each handler), and rows.
 */
import assert from "node:assert/strict";
import type { Counts } from "../../supabase/functions/_shared/queue.ts";
import { handle as callWebhook } from "../../supabase/functions/call-webhook/index.ts";
import { handle as collectRecordings } from "../../supabase/functions/collect-recordings/index.ts";
import type { Reconciled } from "../../supabase/functions/collect-recordings/reconcile.ts";
import { handle as deleteRecordings } from "../../supabase/functions/delete-recordings/index.ts";
import type { Provider } from "../../supabase/functions/providers/provider.ts";
import { backend } from "./backend.ts";
import { PlayedParley } from "./parley/played.ts";
import { type FinishedCall, type PlayedProvider, PlayedVapi, type Webhook } from "./played_provider.ts";
import { PHONE, Records, wav } from "./records.ts";
import {
  assertDiscreet,
  Background,
  call,
  environment,
  listenToLines,
  post,
  type Reply,
  run,
  serve,
} from "./serving.ts";

const NOON = "2026-11-20T12:00:00.000Z";
const ENDED = "2026-11-20T11:00:00.000Z";
const PLAYED = { vapi: () => new PlayedVapi(), parley: () => new PlayedParley() };

const project = await backend();
const records = new Records(project);
const lines = listenToLines();

/** An empty project that has Ana, and the rows of both providers. */
async function prepare(): Promise<string> {
  await project.fresh();
  await project.sql`insert into care.providers (id) values ('parley')`;
  await project.sql`
    insert into care.provider_accounts (id, provider, secret_name) values ('parley', 'parley', 'PARLEY_API_TOKEN')`;
  await project.sql`
    insert into care.ended_reasons (provider, pattern, disposition, reason)
    values ('parley', 'completed', 'judge', null), ('parley', 'machine', 'skip', 'voicemail')`;
  return await records.patient();
}

function finished(played: PlayedProvider, named: Partial<FinishedCall> = {}): FinishedCall {
  const recordings = { customer: wav(0.3) };
  const call = { id: "a-call", phone: PHONE, endedAt: ENDED, spoken: [[1, 2.5]] as const, recordings };
  return { ...call, endedReason: played.endedReasons.judged, ...named };
}

/** The environment in which these providers are deployed. */
function settingsOf(played: readonly PlayedProvider[], named: Record<string, string> = {}): Map<string, string> {
  const hosts = played.map(({ settings }) => settings.RETROCARE_FETCH_PRIVATE_HOSTS).join();
  const settings = Object.assign({}, ...played.map(({ settings }) => settings));
  return environment(project, { ...settings, RETROCARE_FETCH_PRIVATE_HOSTS: hosts, ...named });
}

function providersOf(played: readonly PlayedProvider[]): readonly Provider[] {
  return played.map(({ provider }) => provider);
}

/** Send a webhook's request, and wait for what goes on after the response. */
async function receive(
  played: PlayedProvider,
  { headers, body }: Webhook,
  named: Record<string, string> = {},
  deployed: readonly PlayedProvider[] = [played],
): Promise<Reply> {
  const background = new Background();
  const settings = settingsOf(deployed, named);
  await using served = serve((request) => callWebhook(request, settings, background.waitUntil, providersOf(deployed)));
  const reply = await post(`${served.url}/call-webhook/${played.provider.name}`, body, { headers });
  await background.settled();
  return reply;
}

function collect(
  played: readonly PlayedProvider[],
  options: Record<string, unknown> = {},
  named: Record<string, string> = {},
): Promise<{ collected: Counts; reconciled: Record<string, Reconciled> }> {
  const settings = settingsOf(played, named);
  return run((request) => collectRecordings(request, settings, undefined, providersOf(played)), {
    at: NOON,
    ...options,
  });
}

async function deleteDue(played: readonly PlayedProvider[], named: Record<string, string> = {}): Promise<Counts> {
  const settings = settingsOf(played, named);
  return (await run((request) => deleteRecordings(request, settings, providersOf(played)))).deleted;
}

/** Have a call of this provider reported without its recording. */
function reported(played: PlayedProvider, named: Record<string, unknown> = {}): Promise<string> {
  const { name } = played.provider;
  const ended_reason = played.endedReasons.judged;
  return records.reported({ provider: name, provider_call_id: "a-call", ended_reason, at: ENDED, ...named });
}

async function failure(): Promise<unknown[]> {
  const [recording] = await records.recordings();
  return [recording!.state, recording!.error_code];
}

for (const [name, make] of Object.entries(PLAYED)) {
  Deno.test(`${name}: the report of a finished call becomes a row, once, and its recording is collected`, async () => {
    const patient = await prepare();
    await using played = make();
    const call = finished(played);
    played.add(call);
    for (const isNew of [true, false]) {
      const { status, body } = await receive(played, played.webhook(call));
      assert.deepEqual([status, body.received, body.disposition, body.is_new], [200, true, "judge", isNew]);
    }
    const [row, ...others] = await records.calls();
    assert.equal(others.length, 0);
    assert.deepEqual(
      [row!.patient_id, row!.provider, row!.provider_account, row!.provider_call_id, row!.ended_reason],
      [patient, name, name, "a-call", played.endedReasons.judged],
    );
    assert.deepEqual(row!.timestamp, new Date("2026-11-20T10:55:00Z"));
    assert.deepEqual([row!.speech_intervals, row!.recording_channel], [[[1, 2.5]], "customer"]);
    assert.deepEqual(await records.stored(row!.recording_ref), call.recordings.customer);
  });

  Deno.test(`${name}: a recording is collected from the URL in its report, without a key of the API`, async () => {
    await prepare();
    await using played = make();
    const call = finished(played);
    await receive(played, played.webhook(call, true), { [played.keySetting]: "" });
    const [row] = await records.calls();
    assert.deepEqual(await records.stored(row!.recording_ref), call.recordings.customer);
    assert.equal(played.requests.length, 1);
  });

  Deno.test(`${name}: a voicemail is skipped, and nothing of it is fetched`, async () => {
    await prepare();
    await using played = make();
    const call = finished(played, { endedReason: played.endedReasons.voicemail });
    played.add(call);
    assert.equal((await receive(played, played.webhook(call, true))).body.disposition, "skip");
    assert.deepEqual((await records.calls()).map(({ check_reason }) => check_reason), ["voicemail"]);
    assert.deepEqual(played.requests, []);
  });

  Deno.test(`${name}: only the provider is heard, and a stranger's body is not even read`, async () => {
    await prepare();
    await using played = make();
    await using other = name === "vapi" ? new PlayedParley() : new PlayedVapi();
    const genuine = played.webhook(finished(played));
    const before = await records.counts();
    const strangers = [...played.forgedHeaders(genuine), other.webhook(finished(other)).headers];
    for (const headers of strangers) {
      const { status, body } = await receive(played, { ...genuine, headers }, {}, [played, other]);
      assert.deepEqual([status, body.code], [401, "unauthorized"], JSON.stringify(headers));
    }
    const closed = Object.fromEntries(played.secretSettings.map((setting) => [setting, ""]));
    const { status, body } = await receive(played, genuine, closed);
    assert.deepEqual([status, body.code], [500, "not_configured"]);
    assert.deepEqual(await records.counts(), before);

    let chunks = 0;
    const endless = new ReadableStream({
      pull: (controller) => {
        chunks++;
        controller.enqueue(new Uint8Array(1000));
      },
    });
    const request = new Request(`http://function/call-webhook/${name}`, { method: "POST", body: endless });
    assert.equal((await callWebhook(request, settingsOf([played]), undefined, providersOf([played]))).status, 401);
    assert.ok(chunks <= 1, `${chunks} chunks were read`); // a stream has one at hand
  });

  Deno.test(`${name}: other messages are acknowledged, and what names no call is refused`, async () => {
    await prepare();
    await using played = make();
    const before = await records.counts();
    assert.deepEqual((await receive(played, played.otherMessage())).body, { received: false });
    const { status, body } = await receive(played, played.unreadableReport());
    assert.deepEqual([status, body.code], [400, "unreadable_report"]);
    assert.deepEqual(await records.counts(), before);
  });

  Deno.test(`${name}: reconciliation receives what was never reported, and has it collected in the same run`, async () => {
    await prepare();
    await using played = make();
    await reported(played, { provider_call_id: "reported", ended_reason: played.endedReasons.voicemail });
    const call = finished(played, { id: "never-reported" });
    for (const one of [call, finished(played, { id: "reported" })]) played.add(one);
    played.add(finished(played, { id: "talking", isTalking: true }));
    const { reconciled } = await collect([played], { reconcile: true });
    assert.deepEqual(reconciled, { [name]: { listed: 3, received: 1, unreadable: 0, isDone: true } });
    const row = (await records.calls()).find(({ provider_call_id }) => provider_call_id === "never-reported");
    assert.deepEqual([row!.provider, row!.speech_intervals], [name, [[1, 2.5]]]);
    assert.deepEqual(await records.stored(row!.recording_ref), call.recordings.customer);
    const [account] = await project.sql`select reconciled_until from care.provider_accounts where id = ${name}`;
    assert.equal(account!.reconciled_until.toISOString(), NOON);
    assert.equal((await collect([played], { reconcile: true })).reconciled[name]!.received, 0);
  });

  Deno.test(`${name}: reconciliation goes through all pages of the list`, async () => {
    await prepare();
    await using played = make();
    const ids = Array.from({ length: 130 }, (_, number) => `call-${String(number).padStart(3, "0")}`);
    for (const [number, id] of ids.entries()) {
      const endedAt = new Date(Date.parse(ENDED) - number * 600_000).toISOString();
      played.add(finished(played, { id, endedAt, endedReason: played.endedReasons.voicemail }));
    }
    const { reconciled } = await collect([played], { reconcile: true });
    assert.deepEqual([reconciled[name]!.received, reconciled[name]!.isDone], [130, true]);
    assert.deepEqual((await records.calls()).map(({ provider_call_id }) => provider_call_id), ids);
  });

  Deno.test(`${name}: the API's recording of two channels is stored with the times of the patient's words`, async () => {
    await prepare();
    await using played = make();
    const stereo = wav(0.4, 2);
    played.add(finished(played, { recordings: { stereo, mixed: wav(0.5) } }));
    await reported(played);
    assert.equal((await collect([played])).collected.done, 1);
    const [row] = await records.calls();
    assert.deepEqual([row!.recording_channel, row!.speech_intervals], ["stereo", [[1, 2.5]]]);
    assert.deepEqual(await records.stored(row!.recording_ref), stereo);
  });

  Deno.test(`${name}: why a recording is not collected is a code that the operator can act on`, async () => {
    await using played = make();
    played.add(finished(played, { recordings: {} }));
    const cases: [named: Record<string, string>, code: string, isBroken?: boolean][] = [
      [{ [played.keySetting]: "wrong" }, "provider_unauthorised"],
      [{ [played.keySetting]: "" }, "provider_key_missing"],
      [{}, "recording_unreachable", true],
      [{}, "recording_not_found"],
    ];
    for (const [named, code, isBroken = false] of cases) {
      await prepare();
      await reported(played);
      await project.sql`update care.recordings set attempts = 7`; // it is not late any more
      played.isBroken = isBroken;
      assert.deepEqual((await collect([played], {}, named)).collected.failed, { [code]: 1 });
      const [recording] = await records.recordings();
      const isNamed = String(recording!.error_message).includes(played.keySetting);
      assert.equal(isNamed, code === "provider_unauthorised" || code === "provider_key_missing");
    }
  });

  Deno.test(`${name}: a call of another account than the provider's own is not looked up with its key`, async () => {
    await prepare();
    await project.sql`insert into care.provider_accounts (id, provider) values ('second', ${name})`;
    await using played = make();
    played.add(finished(played));
    await reported(played);
    await project.sql`update public.call_logs set provider_account = 'second'`;
    await project.sql`update care.recordings set attempts = 7`;
    await collect([played]);
    assert.deepEqual([await failure(), played.requests], [["queued", "provider_key_missing"], []]);
  });

  Deno.test(`${name}: an erased call is deleted at the provider, and that is verified`, async () => {
    await using played = make();
    const erase = async () => {
      const patient = await prepare();
      await reported(played);
      played.add(finished(played));
      await project.sql`select care.erase_patient_voice(${patient}, 'asked for')`;
    };
    await erase();
    assert.deepEqual(await deleteDue([played]), { claimed: 1, done: 1, lost: 0, failed: {}, isDone: true });
    assert.equal(played.has("a-call"), false);
    await erase();
    assert.deepEqual((await deleteDue([played], { [played.keySetting]: "wrong" })).failed, {
      provider_unauthorised: 1,
    });
    await erase();
    assert.deepEqual((await deleteDue([played], { [played.keySetting]: "" })).failed, { provider_key_missing: 1 });
    await erase();
    played.keepsDeleted = true;
    assert.deepEqual((await deleteDue([played])).failed, { provider_unreachable: 1 });
    assert.equal(played.has("a-call"), true);
  });
}

Deno.test("two providers: each call is collected by its own provider, also where both have one of the same id", async () => {
  await prepare();
  await using vapi = new PlayedVapi();
  await using other = new PlayedParley();
  const recordings = [{ customer: wav(0.2) }, { customer: wav(0.6) }];
  for (const [index, played] of [vapi, other].entries()) {
    const call = finished(played, { recordings: recordings[index]! });
    played.add(call);
    await receive(played, played.webhook(call), {}, [vapi, other]);
  }
  const rows = await project.sql`select provider, recording_ref from public.call_logs order by provider desc`;
  assert.deepEqual(rows.map(({ provider }) => provider), ["vapi", "parley"]);
  for (const [index, { recording_ref }] of rows.entries()) {
    assert.deepEqual(await records.stored(recording_ref), recordings[index]!.customer);
  }
});

Deno.test("two providers: one that is broken, has no key or no account keeps the other from nothing", async () => {
  await using vapi = new PlayedVapi();
  await using other = new PlayedParley();
  const cases: [arrange: () => unknown, named: Record<string, string>, code: string][] = [
    [() => other.isBroken = true, {}, "provider_unreachable"],
    [() => other.isBroken = false, { PARLEY_API_TOKEN: "wrong" }, "provider_unauthorised"],
    [() => {}, { PARLEY_API_TOKEN: "" }, "provider_key_missing"],
    [() => project.sql`delete from care.provider_accounts where id = 'parley'`, {}, "provider_account_missing"],
  ];
  vapi.add(finished(vapi));
  for (const [arrange, named, code] of cases) {
    await prepare();
    await arrange();
    const { reconciled, collected } = await collect([other, vapi], { reconcile: true }, named);
    assert.deepEqual([reconciled.parley!.isDone, reconciled.parley!.code], [false, code]);
    assert.deepEqual([reconciled.vapi!.received, reconciled.vapi!.isDone, collected.done], [1, true, 1]);
  }
});

Deno.test("two providers: an error in the code of one fails the run, after the other was reconciled", async () => {
  await prepare();
  await using vapi = new PlayedVapi();
  await using other = new PlayedParley();
  vapi.add(finished(vapi));
  const broken: Provider = {
    ...other.provider,
    api: (...given) => {
      const fail = () => Promise.reject(new TypeError("a mistake"));
      return Object.assign(other.provider.api(...given), { listUpdatedCalls: fail });
    },
  };
  const settings = settingsOf([vapi, other]);
  const providers = [broken, vapi.provider];
  const { status, body } = await call((request) => collectRecordings(request, settings, undefined, providers), {
    reconcile: true,
    at: NOON,
  });
  assert.deepEqual([status, body.code], [500, "internal_error"]);
  assert.deepEqual((await records.calls()).map(({ provider }) => provider), ["vapi"]);
});

Deno.test("a provider that is not deployed: its URLs are used, and what needs its API waits", async () => {
  const patient = await prepare();
  await using vapi = new PlayedVapi();
  await using other = new PlayedParley();
  const call = finished(other);
  other.add(call);
  const hosts = settingsOf([vapi, other]).get("RETROCARE_FETCH_PRIVATE_HOSTS")!;
  const named = { RETROCARE_FETCH_PRIVATE_HOSTS: hosts };
  await reported(other);
  await project.sql`update care.recordings set attempts = 7`;
  await collect([vapi], {}, named);
  assert.deepEqual([await failure(), other.requests, vapi.requests], [["queued", "provider_key_missing"], [], []]);

  const recording_url = `${other.settings.PARLEY_API_URL}/files/a-call/callee`;
  await reported(other, { recording_url, recording_url_channel: "customer" });
  await project.sql`update care.recordings set run_at = ${ENDED}`;
  await collect([vapi], {}, named);
  assert.deepEqual(await records.stored((await records.calls())[0]!.recording_ref), call.recordings.customer);

  await project.sql`select care.erase_patient_voice(${patient}, 'asked for')`;
  const { done, failed } = await deleteDue([vapi]);
  assert.deepEqual([done, failed], [1, { unknown_provider: 1 }]);
  assert.equal((await receive(other, other.webhook(call), {}, [vapi])).status, 404);
});

Deno.test("no file outside of a provider's own folder, but for the registry, names the provider", async () => {
  const root = new URL("../../supabase/functions/", import.meta.url);
  const folders = [root];
  for (const folder of folders) {
    for await (const entry of Deno.readDir(folder)) {
      const url = new URL(entry.name, folder);
      const path = url.pathname.slice(root.pathname.length);
      if (entry.isDirectory) folders.push(new URL(`${url}/`));
      else if (!path.startsWith("providers/vapi/") && path !== "providers/registry.ts") {
        assert.doesNotMatch(await Deno.readTextFile(url), /vapi/i, path);
      }
    }
  }
});

Deno.test("no line has a phone number, a name, a key or a URL", () => {
  assert.ok(lines.length > 0);
  assertDiscreet(lines, [
    PHONE,
    "Ana",
    "X-Amz",
    "parley-api-token",
    "parley-signing-key",
    "vapi-webhook-secret",
    "/files/",
  ]);
});
