/**
 * Everything on this machine, to try the functions by hand: the database, the Data API and Storage that the tests use, the four
 * functions, the service, a patient and a caregiver, and the demo's recordings for reports to name. Nothing of it is kept.
 *
 *     deno run --allow-all tests/functions/local.ts [--encoder ge2e] [--port 54330]
 */
import { handle as collectRecordings } from "../../supabase/functions/collect-recordings/index.ts";
import { handle as deleteRecordings } from "../../supabase/functions/delete-recordings/index.ts";
import { handle as notifyCaregiver } from "../../supabase/functions/notify-caregiver/index.ts";
import { handle as callWebhook } from "../../supabase/functions/call-webhook/index.ts";
import { type Backend, backend } from "./backend.ts";
import { PHONE, Records } from "./records.ts";
import { environment, FUNCTIONS_KEY } from "./serving.ts";

const ROOT = new URL("../../", import.meta.url);
const SECRET = "the-webhook-secret";
const FUNCTIONS: Record<string, (request: Request, environment: Map<string, string>) => Promise<Response>> = {
  "call-webhook": callWebhook,
  "collect-recordings": collectRecordings,
  "delete-recordings": deleteRecordings,
  "notify-caregiver": notifyCaregiver,
};
const RECORDINGS = new URL("service/retrocare/cli/demo_recordings/", ROOT);
const READY_MILLISECONDS = 300_000;

/** Serve the functions as Supabase does, and the demo's recordings beside them. */
function serveFunctions(settings: Map<string, string>, port: number): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
    const [, folder, ...path] = new URL(request.url).pathname.split("/"); // /functions/v1/NAME..., /recordings/NAME
    const name = (folder === "functions" ? path[1] : path[0]) ?? "";
    if (folder === "functions" && Object.hasOwn(FUNCTIONS, name)) return await FUNCTIONS[name]!(request, settings);
    if (folder === "recordings" && /^[\w-]+\.flac$/.test(name)) {
      const content = await Deno.readFile(new URL(name, RECORDINGS)).catch(() => null);
      if (content) return new Response(content, { headers: { "content-type": "audio/flac" } });
    }
    return new Response("There is nothing here.\n", { status: 404 });
  });
}

async function startService(
  project: Backend,
  functions: string,
  encoder: string,
): Promise<[Deno.ChildProcess, string]> {
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  taken.close();
  const url = `http://127.0.0.1:${port}`;
  const process = new Deno.Command(new URL(".venv/bin/retrocare", ROOT).pathname, {
    args: ["start", "--port", String(port)],
    cwd: ROOT, // where it keeps the network that it exports
    env: {
      DATABASE_URL: project.serviceUrl,
      SUPABASE_URL: project.apiUrl,
      SUPABASE_SECRET_KEY: project.serviceKey,
      SUPABASE_STORAGE_BUCKET: project.bucket,
      RETROCARE_ENCODER: encoder,
      RETROCARE_FUNCTIONS_URL: functions,
      RETROCARE_FUNCTIONS_KEY: FUNCTIONS_KEY,
    },
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
  }).spawn();
  let isRunning = true;
  process.status.then(() => isRunning = false);
  for (const end = Date.now() + READY_MILLISECONDS; Date.now() < end && isRunning;) {
    const answer = await fetch(`${url}/readyz`).catch(() => null);
    await answer?.body?.cancel();
    if (answer?.ok) return [process, url];
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  if (isRunning) process.kill("SIGTERM");
  throw new Error("The service does not get ready; its last lines say why.");
}

async function arrange(project: Backend): Promise<string> {
  await project.fresh();
  const patient = await new Records(project).patient({ name: "Ana" });
  await project
    .sql`insert into public.patient_caregivers (patient_id, role, name) values (${patient}, 'primary', 'Rui')`;
  await project.sql`update care.delivery_channels set is_enabled = (id = 'console')`;
  return patient;
}

function sample(functions: string): string {
  return `CALL=01-enrol-monday
curl -s ${functions}/call-webhook/vapi -H 'authorization: Bearer ${SECRET}' -d '{"message": {"type": "end-of-call-report",
  "endedReason": "customer-ended-call", "call": {"id": "'$CALL'"}, "customer": {"number": "${PHONE}"},
  "artifact": {"presignedCustomerUrl": "${functions.replace("functions/v1", "recordings")}/'$CALL'.flac"}}}'`;
}

async function main(words: readonly string[]): Promise<void> {
  const option = (name: string, otherwise: string) =>
    words.includes(name) ? words[words.indexOf(name) + 1]! : otherwise;
  const stopped = new Promise<void>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, resolve);
  });
  console.log("Starting the database and the Data API ...");
  const project = await backend();
  const patient = await arrange(project);
  const settings = environment(project, { VAPI_WEBHOOK_SECRET: SECRET });
  const server = serveFunctions(settings, Number(option("--port", "54330")));
  const functions = `http://127.0.0.1:${server.addr.port}/functions/v1`;
  settings.set("RETROCARE_FETCH_PRIVATE_HOSTS", `127.0.0.1:${server.addr.port}`);
  console.log("Starting the service; the first time its network is exported ...");
  const [service, serviceUrl] = await startService(project, functions, option("--encoder", "auto"));
  settings.set("PYTHON_SERVICE_URL", serviceUrl);
  const { host, database } = project.database;
  console.log(`
the functions    ${functions}/{${Object.keys(FUNCTIONS).join(",")}}
                 all but call-webhook take 'authorization: Bearer ${FUNCTIONS_KEY}'
the Data API     ${project.apiUrl}
                 secret key ${project.serviceKey}, publishable key ${project.publishableKey}
the service      ${serviceUrl} (/docs shows its routes)
the database     psql "host=${host} dbname=${database} user=postgres"
the patient      ${patient}: Ana, ${PHONE}; messages to her caregiver Rui are printed here

Report a call, then others: 02-enrol-tuesday, 03-enrol-wednesday, 04-usual-thursday ... 10-another-voice

${sample(functions)}

What became of it:

curl -s '${project.apiUrl}/rest/v1/call_logs?select=provider_call_id,check_state,check_reason,anomaly_score' \\
  -H 'apikey: ${project.serviceKey}'

Ctrl-C ends it all, and forgets it.
`);
  await Promise.race([stopped, service.status]);
  try {
    service.kill("SIGTERM");
  } catch {
    // It has ended already.
  }
  await service.status;
  await server.shutdown();
  Deno.exit(0); // the database ends when its standard input does
}

if (import.meta.main) await main(Deno.args);
