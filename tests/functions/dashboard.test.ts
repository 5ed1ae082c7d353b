import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHmac } from "node:crypto";
import { createClient, type SupabaseClient } from "npm:@supabase/supabase-js@2.119.0";
import { backend } from "./backend.ts";
import { Records } from "./records.ts";

const project = await backend();
const records = new Records(project);
const VIEWS = [
  "caregiver_patients",
  "voice_timeline",
  "alert_history",
  "recent_anomaly_logs",
  "patient_voice_baseline",
  "silent_patients",
  "alert_changes",
];
const TABLES = [
  ...["patients", "patient_caregivers", "health_flags", "daily_checkins", "voice_anomaly_logs"],
  ...["caregiver_alerts", "consents", "check_status"],
];
const NOBODY = "00000000-0000-4000-8000-000000000000";

interface Caregiver {
  readonly client: SupabaseClient;
  readonly token: string;
  readonly account: string;
  readonly patient: string;
  readonly alert: string;
  readonly log: string;
  readonly caregiver: string;
}

function visitor(headers: Record<string, string> = {}): SupabaseClient {
  return createClient(project.apiUrl, project.publishableKey, {
    auth: { persistSession: false, autoRefreshToken: false },
    global: { headers },
  });
}

/** A patient with a call, a score, an alert and a baseline, whom somebody cares for who has just signed up and in. */
async function caregiver(name: string, role = "primary"): Promise<Caregiver> {
  const client = visitor();
  const credentials = { email: `${name.toLowerCase()}@example.org`, password: `the long password of ${name}` };
  assert.equal((await client.auth.signUp(credentials)).error, null);
  const { data, error } = await client.auth.signInWithPassword(credentials);
  assert.equal(error, null);
  const account = data.user!.id;
  const { sql } = project;
  const patient = await records.patient({ name: `${name}'s mother`, phone: null });
  await sql`select voice.register_encoder('test-v1', 3, 1.6)`;
  for (const [day, vector] of ["[1,0,0]", "[1,0,0]", "[1,0,0]", "[0,1,0]"].entries()) {
    const source = day < 3 ? "onboarding" : "upload";
    const [call] = await sql`
      insert into public.call_logs (patient_id, source, "timestamp", enrolment_id)
      values (${patient}, ${source}, now() - make_interval(hours => ${4 - day}), ${day < 3 ? patient : null})
      returning id`;
    const [claim] = await sql`select * from voice.open_check(${call!.id}, 'test-v1', 'test', 60)`;
    await sql`
      select voice.complete_check(${claim!.check_id}, ${claim!.lease_token}, ${vector}::extensions.vector,
        sha256(${`${name} ${day}`}::bytea), 10.0, 30.0, '{}')`;
  }
  const [care] = await sql`
    insert into public.patient_caregivers (patient_id, user_id, role, name, patient_known_as)
    values (${patient}, ${account}, ${role}, ${name}, 'Mum') returning id`;
  const [alert] = await sql`select id from public.caregiver_alerts where patient_id = ${patient}`;
  const [log] = await sql`select id from public.voice_anomaly_logs where patient_id = ${patient} and severity > 'low'`;
  await sql`
    insert into public.patients (name, timezone, silent_after_days, created_at)
    values (${`${name}'s silent father`}, 'UTC', 1, '2026-01-01')`;
  return {
    client,
    account,
    patient,
    token: data.session!.access_token,
    alert: alert!.id,
    log: log!.id,
    caregiver: care!.id,
  };
}

async function twoFamilies(role = "primary"): Promise<[Caregiver, Caregiver]> {
  await project.fresh();
  await project.sql`delete from auth.users where email like '%@example.org'`;
  return [await caregiver("Rui", role), await caregiver("Eva")];
}

/** What a code or a status says of a refusal; null where there was none. */
async function refusal(
  request: PromiseLike<{ data: unknown; error: { code: string } | null; status: number }>,
): Promise<unknown> {
  const { data, error, status } = await request;
  return error ? error.code || status : Array.isArray(data) && data.length === 0 ? "nothing" : null;
}

Deno.test("each view shows a signed-in caregiver her own patient and nobody else's", async () => {
  const [rui, eva] = await twoFamilies();
  await project.sql`update public.patients set silent_after_days = 1, created_at = '2026-01-01'`;
  await project.sql`
    update public.call_logs set "timestamp" = "timestamp" - interval '9 days' where patient_id = ${eva.patient}`;
  for (const { client, patient } of [rui, eva]) {
    for (const name of [...VIEWS, ...TABLES, "call_logs"]) {
      const column = name === "patients" ? "id" : "patient_id";
      const { data, error } = await client.from(name).select(name === "call_logs" ? "id, patient_id" : "*");
      assert.equal(error, null, `${name}: ${error?.message}`);
      const shown = new Set((data as unknown as Record<string, unknown>[]).map((row) => row[column]));
      const mayBeEmpty = ["silent_patients", "health_flags"].includes(name);
      assert.deepEqual([...shown], mayBeEmpty && shown.size === 0 ? [] : [patient], name);
    }
  }
  const { data: silent } = await eva.client.from("silent_patients").select();
  assert.deepEqual(silent!.map((row) => row.patient_id), [eva.patient]);
  const { data: overview } = await rui.client.from("caregiver_patients").select().single();
  assert.deepEqual([overview.known_as, overview.role, overview.state], ["Mum", "primary", "changed"]);
});

Deno.test("no view shows a vector, nor does what is asked for by name", async () => {
  const [rui] = await twoFamilies();
  for (const name of [...VIEWS, ...TABLES]) {
    assert.notEqual(await refusal(rui.client.from(name).select("embedding")), null, name);
  }
  for (const name of ["embeddings", "baselines", "audit_log", "api_keys"]) {
    assert.notEqual(await refusal(rui.client.from(name).select()), null, name);
    for (const schema of ["care", "voice"]) {
      assert.notEqual(await refusal(rui.client.schema(schema).from(name).select()), null, name);
    }
  }
});

Deno.test("a caregiver acknowledges, puts off and resolves an alert, and writes notes", async () => {
  const [rui] = await twoFamilies();
  const call = (name: string, values = {}) => rui.client.rpc(name, { alert_id: rui.alert, ...values });
  assert.equal((await call("acknowledge_alert")).data.state, "acknowledged");
  const until = new Date(Date.now() + 1_800_000).toISOString();
  assert.equal((await call("snooze_alert", { until })).data.state, "snoozed");
  const resolved = await call("resolve_alert", { outcome: "ill", notes: "She has a cold." });
  assert.equal(resolved.data.state, "resolved");
  assert.equal(await refusal(call("acknowledge_alert")), "PT409");
  const { data: inbox } = await rui.client.from("alert_history").select().single();
  assert.deepEqual([inbox.resolved_by, inbox.outcome, inbox.notes], ["Rui", "ill", "She has a cold."]);
  const { data: history } = await rui.client.from("alert_changes").select().order("changed_at");
  assert.deepEqual(history!.map((row) => row.change), ["opened", "acknowledged", "snoozed", "resolved"]);
  const noted = await rui.client.from("voice_anomaly_logs").update({ notes: "A cold." }).eq("id", rui.log).select();
  assert.equal(noted.error, null);
  assert.equal(noted.data![0].notes, "A cold.");
});

Deno.test("a viewer only looks", async () => {
  const [rui] = await twoFamilies("viewer");
  const { data } = await rui.client.from("alert_history").select().single();
  assert.equal(data.alert_id, rui.alert);
  assert.equal(await refusal(rui.client.rpc("acknowledge_alert", { alert_id: rui.alert })), "PT403");
  assert.equal(await refusal(rui.client.rpc("export_patient", { patient_id: rui.patient })), "PT403");
  const notes = rui.client.from("voice_anomaly_logs").update({ notes: "x" }).eq("id", rui.log).select();
  assert.equal(await refusal(notes), "nothing");
});

Deno.test("whatever is another family's is refused or not there, and stays as it was", async () => {
  const [rui, eva] = await twoFamilies();
  const before = await state(eva);
  const rpc = (name: string, values: Record<string, unknown>) => refusal(rui.client.rpc(name, values));
  const until = new Date(Date.now() + 1_800_000).toISOString();
  assert.equal(await rpc("acknowledge_alert", { alert_id: eva.alert }), "PT404");
  assert.equal(await rpc("snooze_alert", { alert_id: eva.alert, until }), "PT404");
  assert.equal(await rpc("resolve_alert", { alert_id: eva.alert, outcome: "ill" }), "PT404");
  assert.equal(await rpc("export_patient", { patient_id: eva.patient }), "PT404");
  assert.equal(await rpc("withdraw_consent", { patient_id: eva.patient }), "PT404");
  assert.equal(await rpc("record_consent", { patient_id: eva.patient, evidence: "forged" }), "PT404");
  assert.equal(await rpc("remove_caregiver", { caregiver_id: eva.caregiver }), "PT404");
  assert.equal(await rpc("add_caregiver", { patient_id: eva.patient, role: "primary", name: "Rui" }), "PT404");
  for (const name of ["erase_patient", "erase_patient_voice"]) {
    assert.notEqual(await rpc(name, { patient_id: eva.patient, reason: "forged" }), null, name);
    assert.notEqual(await rpc(name, { patient_id: rui.patient, reason: "forged" }), null, name);
  }
  for (const name of ["run_job", "claim_deliveries", "claim_recordings", "claim_deletions"]) {
    const values = name === "run_job" ? { job: "match_calls" } : { worker: "w", count: 9, lease_seconds: 60 };
    assert.notEqual(await rpc(name, values), null, name);
  }
  const { client } = rui;
  assert.equal(await refusal(client.from("patients").select().eq("id", eva.patient)), "nothing");
  assert.equal(await refusal(client.from("voice_timeline").select().or(`patient_id.eq.${eva.patient}`)), "nothing");
  for (
    const write of [
      client.from("patients").update({ name: "x" }).eq("id", eva.patient).select(),
      client.from("patients").delete().eq("id", eva.patient).select(),
      client.from("voice_anomaly_logs").update({ notes: "x" }).eq("id", eva.log).select(),
      client.from("caregiver_alerts").update({ state: "resolved" }).eq("id", eva.alert).select(),
      client.from("patient_caregivers").insert({ patient_id: eva.patient, user_id: rui.account, role: "primary" })
        .select(),
      client.from("patient_caregivers").upsert({ id: eva.caregiver, patient_id: eva.patient, user_id: rui.account })
        .select(),
      client.from("voice_anomaly_logs").insert({ patient_id: eva.patient, anomaly_score: 0 }).select(),
      client.from("call_logs").insert({ patient_id: eva.patient }).select("id"),
      client.from("consents").insert({ patient_id: eva.patient, evidence: "forged" }).select(),
      client.from("alert_changes").delete().eq("patient_id", eva.patient).select(),
    ]
  ) assert.notEqual(await refusal(write), null);
  assert.deepEqual(await state(eva), before);
});

async function state({ patient }: Caregiver): Promise<unknown> {
  const { sql } = project;
  return [
    await sql`select to_jsonb(p) as row from public.patients as p where id = ${patient}`,
    await sql`select to_jsonb(c) as row from public.patient_caregivers as c where patient_id = ${patient} order by id`,
    await sql`select to_jsonb(a) as row from public.caregiver_alerts as a where patient_id = ${patient}`,
    await sql`select to_jsonb(l) as row from public.voice_anomaly_logs as l where patient_id = ${patient} order by id`,
    await sql`select to_jsonb(c) as row from public.consents as c where patient_id = ${patient} order by id`,
    await sql`select id from voice.embeddings where patient_id = ${patient} order by id`,
  ].map((rows) => [...rows]);
}

function token(claims: Record<string, unknown>, secret: string, alg = "HS256"): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg, typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${alg === "none" ? "" : createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

Deno.test("a token that the project did not sign, or that has expired, opens nothing", async () => {
  const [rui] = await twoFamilies();
  const own = JSON.parse(Buffer.from(rui.token.split(".")[1]!, "base64url").toString());
  const right = visitor({ authorization: `Bearer ${token(own, project.jwtSecret)}` });
  const { data } = await right.from("caregiver_patients").select();
  assert.equal(data!.length, 1); // signed as the project signs: what follows fails for its own reason
  const hour = Math.floor(Date.now() / 1000) - 3600;
  const [head, body, signature] = rui.token.split(".");
  const changed = Buffer.from(JSON.stringify({ ...own, role: "service_role" })).toString("base64url");
  const tokens: Record<string, string> = {
    "expired": token({ ...own, iat: hour - 3600, exp: hour }, project.jwtSecret),
    "of no algorithm": token(own, "", "none"),
    "of no algorithm, as service_role": token({ ...own, role: "service_role" }, "", "none"),
    "of another key": token(own, "another key that is long enough to sign with"),
    "of another key, as service_role": token({ role: "service_role", exp: own.exp }, "super-secret-jwt-token"),
    "of the empty key": token(own, " "),
    "changed": `${head}.${changed}.${signature}`,
    "cut off": `${head}.${body}.`,
    "no token": "abc",
    "the publishable key": project.publishableKey,
  };
  for (const [what, forged] of Object.entries(tokens)) {
    const client = visitor({ authorization: `Bearer ${forged}` });
    for (const name of [...VIEWS, ...TABLES]) {
      assert.notEqual(await refusal(client.from(name).select()), null, `${what}: ${name}`);
    }
    const request = client.rpc("acknowledge_alert", { alert_id: rui.alert });
    assert.notEqual(await refusal(request), null, what);
    assert.notEqual(await refusal(client.rpc("export_patient", { patient_id: rui.patient })), null, what);
    assert.notEqual(await refusal(client.rpc("withdraw_consent", { patient_id: rui.patient })), null, what);
  }
});

Deno.test("without an account one sees and does nothing", async () => {
  const [rui] = await twoFamilies();
  const nobody = token({ role: "authenticated", sub: NOBODY, exp: Date.now() / 1000 + 600 }, project.jwtSecret);
  for (const client of [visitor(), visitor({ authorization: `Bearer ${nobody}` })]) {
    for (const name of [...VIEWS, ...TABLES]) {
      assert.notEqual(await refusal(client.from(name).select()), null, name);
    }
    assert.notEqual(await refusal(client.rpc("acknowledge_alert", { alert_id: rui.alert })), null);
    assert.notEqual(await refusal(client.rpc("export_patient", { patient_id: rui.patient })), null);
  }
});
