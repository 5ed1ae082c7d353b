/** scripts/local as somebody uses it: what it prints is run. */
import assert from "node:assert/strict";
import { backend } from "./backend.ts";
import { Records } from "./records.ts";

const project = await backend();
const records = new Records(project);
const LOCAL = new URL("../../tools/local/main.ts", import.meta.url).pathname;

Deno.test("scripts/local shows judged calls and the message, and judges the report that it prints", async () => {
  const models = Deno.env.get("RETROCARE_MODEL_DIR") ?? new URL("../.models", import.meta.url).pathname;
  const backendLine = JSON.stringify({
    api_url: project.apiUrl,
    service_key: project.serviceKey,
    publishable_key: project.publishableKey,
    jwt_secret: project.jwtSecret,
    bucket: project.bucket,
    service_url: project.serviceUrl,
    database: project.database,
  });
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--quiet",
      "--no-check",
      "--config",
      "deno.json",
      "--allow-all",
      LOCAL,
      "--port",
      "0",
      "--encoder",
      "ge2e",
    ],
    cwd: new URL(".", import.meta.url), // where deno.json is
    env: { RETROCARE_TEST_BACKEND: backendLine, RETROCARE_MODEL_DIR: models },
    stdout: "piped",
    stderr: "null",
  }).spawn();
  try {
    let printed = "";
    const reader = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    while (!printed.includes("Ctrl-C ends")) {
      const { value, done } = await reader.read();
      assert.ok(!done, printed);
      printed += value;
    }
    reader.releaseLock();
    assert.match(printed, /01-enrol-monday +enrolled\n/);
    assert.match(printed, /04-usual-thursday +scored, low, 0\.0\d\d\n/);
    assert.match(printed, /10-another-voice +scored, medium, warning, 0\.390\n/);
    assert.match(printed, /What Rui is told:\n\nwarning for Rui: .*did not sound like Mum's/);
    const [, sample] = /(CALL=[^]*?'\$FILE'[^]*?\n)\n/.exec(printed)!;
    const posted = await new Deno.Command("bash", { args: ["-c", sample!] }).output();
    assert.equal(JSON.parse(new TextDecoder().decode(posted.stdout)).disposition, "judge");
    const state = async () => (await records.calls()).find((call) => call.provider_call_id === "my-call")?.check_state;
    for (let waited = 0; waited < 300 && await state() !== "scored"; waited++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.equal(await state(), "scored");
  } finally {
    process.kill("SIGINT");
    assert.equal((await process.status).code, 0);
  }
});

for (
  const [words, told] of [
    [["--nope", "1"], "there is no option --nope"],
    [["--port"], "--port needs a value"],
    [["--port", "abc"], "--port is a number up to 65535, not abc"],
    [["--recordings", "/nonexistent"], "--recordings: /nonexistent is no folder"],
  ] as const
) {
  Deno.test(`scripts/local ${words.join(" ")} says what is wrong and starts nothing`, async () => {
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "--no-check", "--config", "deno.json", "--allow-all", LOCAL, ...words],
      cwd: new URL(".", import.meta.url),
    }).output();
    assert.equal(code, 2);
    assert.ok(new TextDecoder().decode(stdout).startsWith(`scripts/local: ${told}`));
  });
}
