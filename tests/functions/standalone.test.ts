/** The functions as they are deployed: each in a process of its own, with its settings in the environment. */
import assert from "node:assert/strict";
import { backend } from "./backend.ts";
import { PHONE, Records, wav } from "./records.ts";
import { report } from "./reports.ts";
import { environment, FUNCTIONS_KEY } from "./serving.ts";
import { FakeVapi, KEY } from "./vapi.ts";

const project = await backend();
const records = new Records(project);

/** Run a function's index.ts, use it, and stop it; returns its standard error. */
async function running(
  name: string,
  named: Record<string, string>,
  use: (url: string) => Promise<void>,
): Promise<string> {
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  taken.close();
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-check",
      `--config=${new URL("deno.json", import.meta.url).pathname}`,
      "--node-modules-dir=manual",
      "--allow-env",
      "--allow-net",
      "--allow-sys",
      new URL(`../../supabase/functions/${name}/index.ts`, import.meta.url).pathname,
    ],
    cwd: new URL(".", import.meta.url).pathname,
    clearEnv: true,
    env: {
      ...Object.fromEntries(environment(project, named)),
      DENO_SERVE_ADDRESS: `tcp:127.0.0.1:${port}`,
      HOME: Deno.env.get("HOME") ?? "",
    },
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const written = new Response(process.stderr).text();
  try {
    for (let waited = 0; waited < 200; waited++) {
      try {
        (await Deno.connect({ hostname: "127.0.0.1", port })).close();
        break;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    await use(`http://127.0.0.1:${port}`);
  } finally {
    try {
      process.kill("SIGTERM");
    } catch {
      console.log(await written); // it has ended by itself, and says why
    }
    await process.status;
  }
  return await written;
}

function events(written: string): Record<string, unknown>[] {
  return written.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

Deno.test("call-webhook serves reports where it runs by itself, and logs each step with the call's id", async () => {
  await project.fresh();
  await records.patient();
  await using vapi = new FakeVapi();
  const address = vapi.sign(wav());
  let callLogId: unknown;
  const written = await running("call-webhook", { ...vapi.settings, VAPI_WEBHOOK_SECRET: "secret" }, async (url) => {
    const body = JSON.stringify(report({ presignedCustomerUrl: address }));
    const answer = await fetch(`${url}/call-webhook/vapi`, {
      method: "POST",
      headers: { "x-vapi-secret": "secret" },
      body,
    });
    assert.equal(answer.status, 200);
    callLogId = (await answer.json()).call_log_id;
    for (let waited = 0; waited < 100 && !(await records.calls())[0]!.recording_ref; waited++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  assert.notEqual((await records.calls())[0]!.recording_ref, null);
  const logged = events(written);
  assert.deepEqual(logged.map(({ event }) => event), ["call_received", "recording_stored"]);
  assert.ok(logged.every(({ call_log_id }) => call_log_id === callLogId));
  for (const secret of [PHONE, "Ana", "X-Amz", KEY]) assert.ok(!written.includes(secret));
});

Deno.test("collect-recordings serves where it runs by itself", async () => {
  await project.fresh();
  await using vapi = new FakeVapi();
  const written = await running("collect-recordings", vapi.settings, async (url) => {
    const headers = { authorization: `Bearer ${FUNCTIONS_KEY}` };
    assert.equal((await (await fetch(url, { method: "POST", headers })).json()).collected.isDone, true);
    const refused = await fetch(url, { method: "POST" });
    assert.equal(refused.status, 401);
    await refused.body?.cancel();
  });
  assert.deepEqual(events(written).map(({ event }) => event), ["run_finished", "request_refused"]);
});

Deno.test("the folders that have an index.ts are the functions of config.toml, and no others", async () => {
  const supabase = new URL("../../supabase/", import.meta.url);
  const found: string[] = [];
  for await (const { name } of Deno.readDir(new URL("functions/", supabase))) {
    if (await Deno.stat(new URL(`functions/${name}/index.ts`, supabase)).catch(() => null)) found.push(name);
  }
  const config = await Deno.readTextFile(new URL("config.toml", supabase));
  assert.deepEqual(found.sort(), [...config.matchAll(/^\[functions\.([\w-]+)\]$/gm)].map(([, name]) => name).sort());
});
