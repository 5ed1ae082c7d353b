/**
 * Everything on this machine: the database, the Data API and Storage that the tests use, the four edge functions, the
 * service, and a played phone provider. Three calls of one patient are reported and judged; then it stays up for others.
 * Nothing of it is kept.
 *
 *     deno run --allow-all tools/local/main.ts [--encoder ge2e] [--port 54330] [--recordings DIR]
 */
import { handle as callWebhook } from "../../supabase/functions/call-webhook/index.ts";
import { handle as collectRecordings } from "../../supabase/functions/collect-recordings/index.ts";
import { handle as deleteRecordings } from "../../supabase/functions/delete-recordings/index.ts";
import { handle as notifyCaregiver } from "../../supabase/functions/notify-caregiver/index.ts";
import { type Backend, backend } from "../../tests/functions/backend.ts";
import { PHONE, Records } from "../../tests/functions/records.ts";
import { environment, FUNCTIONS_KEY } from "../../tests/functions/serving.ts";
import { FakeVapi } from "../../tests/functions/vapi.ts";

const ROOT = new URL("../../", import.meta.url);
const SECRET = "the-webhook-secret";
const FUNCTIONS: Record<string, (request: Request, environment: Map<string, string>) => Promise<Response>> = {
  "call-webhook": callWebhook,
  "collect-recordings": collectRecordings,
  "delete-recordings": deleteRecordings,
  "notify-caregiver": notifyCaregiver,
};
const RECORDINGS = new URL("service/retrocare/cli/demo_recordings/", ROOT).pathname;
/** The calls that are made at the start, by the names of their recordings. */
const CALLS = ["01-enrol-monday", "02-enrol-tuesday", "03-enrol-wednesday", "04-usual-thursday", "10-another-voice"];
const READY_SECONDS = 300;
const JUDGED_SECONDS = 60;

const SERVED = /^[\w.-]+\.\w+$/;

interface Options {
  readonly port: number;
  readonly encoder: string;
  /** A folder whose files are served at /recordings/, beside those of the demo. */
  readonly recordings: string;
}

class Stack implements AsyncDisposable {
  readonly #vapi = new FakeVapi();
  readonly #log: string;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #settings: Map<string, string>;
  readonly records: Records;
  #service: Deno.ChildProcess | undefined;
  serviceUrl = "";

  constructor(readonly project: Backend, readonly options: Options) {
    this.records = new Records(project);
    this.#log = Deno.makeTempFileSync({ prefix: "retrocare-local-", suffix: ".log" });
    console.error = (line: unknown) => Deno.writeTextFileSync(this.#log, `${line}\n`, { append: true });
    this.#settings = environment(project, { ...this.#vapi.settings, VAPI_WEBHOOK_SECRET: SECRET });
    this.#server = Deno.serve(
      { port: options.port, hostname: "127.0.0.1", onListen: () => {} },
      (request) => this.#respond(request),
    );
    this.#settings.set("RETROCARE_FETCH_PRIVATE_HOSTS", `${this.#vapi.named},127.0.0.1:${this.#server.addr.port}`);
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }

  get functionsUrl(): string {
    return `${this.url}/functions/v1`;
  }

  get log(): string {
    return this.#log;
  }

  /** Start the service, and wait until it is ready. */
  async startService(): Promise<void> {
    const { project, options } = this;
    const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = taken.addr as Deno.NetAddr;
    taken.close();
    this.serviceUrl = `http://127.0.0.1:${port}`;
    this.#service = new Deno.Command(new URL(".venv/bin/retrocare", ROOT).pathname, {
      args: ["start", "--port", String(port)],
      cwd: ROOT, // where it keeps the network that it exports
      env: {
        DATABASE_URL: project.serviceUrl,
        SUPABASE_URL: project.apiUrl,
        SUPABASE_SECRET_KEY: project.serviceKey,
        SUPABASE_STORAGE_BUCKET: project.bucket,
        RETROCARE_ENCODER: options.encoder,
        RETROCARE_FUNCTIONS_URL: this.functionsUrl,
        RETROCARE_FUNCTIONS_KEY: FUNCTIONS_KEY,
        RETROCARE_SCHEDULE_SECONDS: "1",
      },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    for (const stream of [this.#service.stdout, this.#service.stderr]) void this.#keep(stream);
    let isRunning = true;
    this.#service.status.then(() => isRunning = false);
    const isReady = async () => {
      const response = await fetch(`${this.serviceUrl}/readyz`).catch(() => null);
      await response?.body?.cancel();
      return !isRunning || response?.ok === true;
    };
    const inTime = await until(isReady, READY_SECONDS);
    if (!inTime || !isRunning) throw new Error(`The service did not get ready. Its last lines:\n${this.lastLines()}`);
    this.#settings.set("PYTHON_SERVICE_URL", this.serviceUrl);
  }

  /** Let the played provider make a call, and report it as Vapi does. */
  async call(name: string): Promise<void> {
    const content = await Deno.readFile(`${RECORDINGS}/${name}.flac`);
    this.#vapi.add(name, { customer: content });
    const now = Date.now();
    const message = {
      type: "end-of-call-report",
      endedReason: "customer-ended-call",
      startedAt: new Date(now - 30_000).toISOString(),
      endedAt: new Date(now).toISOString(),
      call: { id: name },
      customer: { number: PHONE },
      artifact: { presignedCustomerUrl: this.#vapi.sign(content, "audio/flac") },
    };
    const response = await fetch(`${this.functionsUrl}/call-webhook/vapi`, {
      method: "POST",
      headers: { authorization: `Bearer ${SECRET}` },
      body: JSON.stringify({ message }),
    });
    if (!response.ok) throw new Error(`call-webhook answered ${response.status}: ${await response.text()}`);
    await response.body?.cancel();
  }

  /** Wait until a call has been judged, and say how. */
  async outcome(name: string): Promise<string> {
    const find = async () =>
      (await this.project.sql`
        select call_logs.check_state as state, call_logs.check_reason as reason, call_logs.anomaly_score as score,
          judgements.severity, judgements.alert_type
        from public.call_logs
        left join public.judgements on judgements.call_log_id = call_logs.id
        where call_logs.provider_call_id = ${name} and call_logs.check_state not in ('queued', 'leased')`)[0];
    if (!await until(async () => await find() !== undefined, JUDGED_SECONDS)) {
      throw new Error(
        `The call ${name} is not judged after ${JUDGED_SECONDS} s.\nThe last lines of the log:\n${this.lastLines()}`,
      );
    }
    const { state, reason, score, severity, alert_type: alert } = (await find())!;
    const words = [state, reason, severity, alert, score === null ? null : Number(score).toFixed(3)];
    return words.filter((word) => word !== null).join(", ");
  }

  /** Wait until a message to a caregiver was sent; the channel prints it. */
  async message(): Promise<void> {
    const isSent = async () =>
      (await this.project.sql`select from care.deliveries where state = 'accepted' limit 1`).length > 0;
    if (!await until(isSent, JUDGED_SECONDS)) {
      throw new Error(`No message was sent.\nThe last lines of the log:\n${this.lastLines()}`);
    }
  }

  /** The end of the service, however it comes. */
  get ended(): Promise<unknown> {
    return this.#service!.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#service?.kill("SIGTERM");
    } catch {
      // It has ended already.
    }
    await this.#service?.status;
    await this.#server.shutdown();
    await this.#vapi[Symbol.asyncDispose]();
    await Deno.remove(this.#log);
  }

  /** Serve the functions as Supabase does, and recordings beside them. */
  async #respond(request: Request): Promise<Response> {
    const [, folder, ...path] = new URL(request.url).pathname.split("/"); // /functions/v1/NAME..., /recordings/NAME
    const name = (folder === "functions" ? path[1] : path[0]) ?? "";
    if (folder === "functions" && Object.hasOwn(FUNCTIONS, name)) {
      return await FUNCTIONS[name]!(request, this.#settings);
    }
    if (folder === "recordings" && SERVED.test(name)) {
      for (const place of [this.options.recordings, RECORDINGS]) {
        const content = await Deno.readFile(`${place}/${name}`).catch(() => null);
        if (content) return new Response(content);
      }
    }
    return new Response("There is nothing here.\n", { status: 404 });
  }

  async #keep(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const chunk of stream) await Deno.writeFile(this.#log, chunk, { append: true });
  }

  lastLines(): string {
    return Deno.readTextFileSync(this.#log).split("\n").slice(-10).join("\n");
  }
}

async function until(isSo: () => Promise<boolean>, seconds: number): Promise<boolean> {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end;) {
    if (await isSo()) return true;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return false;
}

async function arrange(stack: Stack): Promise<string> {
  const { project, records } = stack;
  await project.fresh();
  const patient = await records.patient({ name: "Ana" });
  await project.sql`
    insert into public.patient_caregivers (patient_id, role, name, patient_known_as)
    values (${patient}, 'primary', 'Rui', 'Mum')`;
  await project.sql`update care.delivery_channels set is_enabled = (id = 'console')`;
  return patient;
}

/** A report to post: of the first file in the folder of one's own recordings, or of one of the demo's. */
function sample(stack: Stack): string {
  const own = stack.options.recordings === RECORDINGS ? [] : servedFiles(stack.options.recordings);
  const [file = "05-usual-friday.flac"] = own;
  return `CALL=my-call FILE=${file}
curl -s ${stack.functionsUrl}/call-webhook/vapi -H 'authorization: Bearer ${SECRET}' -d '{"message": {"type": "end-of-call-report",
  "endedReason": "customer-ended-call", "call": {"id": "'$CALL'"}, "customer": {"number": "${PHONE}"},
  "artifact": {"presignedCustomerUrl": "${stack.url}/recordings/'$FILE'"}}}'`;
}

function servedFiles(folder: string): string[] {
  return [...Deno.readDirSync(folder)].filter(({ isFile, name }) => isFile && SERVED.test(name)).map(({ name }) => name)
    .sort();
}

/** Read the options. Raises an Error that says which is wrong. */
function optionsOf(words: readonly string[]): Options {
  const given = new Map<string, string>();
  for (let at = 0; at < words.length; at += 2) {
    const [name = "", value] = words.slice(at, at + 2);
    if (!["--port", "--encoder", "--recordings"].includes(name)) throw new Error(`there is no option ${name}`);
    if (value === undefined) throw new Error(`${name} needs a value`);
    given.set(name, value);
  }
  const port = given.get("--port") ?? "54330";
  if (!/^[0-9]+$/.test(port) || Number(port) > 65535) throw new Error(`--port is a number up to 65535, not ${port}`);
  const recordings = given.get("--recordings") ?? RECORDINGS;
  try {
    if (servedFiles(recordings).length === 0) {
      throw new Error(
        `--recordings: no file directly in ${recordings} has a name of letters, digits, dots, - and _ alone`,
      );
    }
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      throw new Error(`--recordings: ${recordings} is no folder`);
    }
    throw error;
  }
  return { port: Number(port), encoder: given.get("--encoder") ?? "ge2e", recordings };
}

/** Start everything, play, and say how to go on. */
async function show(stack: Stack): Promise<void> {
  const { project } = stack;
  const patient = await arrange(stack);
  console.log("Starting the service; the first time its network is exported, which takes some ten seconds ...");
  await stack.startService();
  console.log("\nThe played provider calls Ana, whose caregiver is Rui:\n");
  for (const name of CALLS) {
    await stack.call(name);
    console.log(`  ${name.padEnd(20)} ${await stack.outcome(name)}`);
  }
  console.log("\nWhat Rui is told:\n");
  await stack.message();
  const { host, database } = project.database;
  console.log(`
the functions    ${stack.functionsUrl}/{${Object.keys(FUNCTIONS).join(",")}}
                 all but call-webhook take 'authorization: Bearer ${FUNCTIONS_KEY}'
the Data API     ${project.apiUrl}
                 secret key ${project.serviceKey}, publishable key ${project.publishableKey}
the service      ${stack.serviceUrl} (/docs shows its routes)
the database     psql "host=${host} dbname=${database} user=postgres"
the patient      ${patient}: Ana, ${PHONE}
the log          ${stack.log}

Report a call of your own. FILE is a file of --recordings DIR, or one of the demo's (05-usual-friday.flac ... 12-silence.flac);
each call has a CALL of its own:

${sample(stack)}

What became of it:

curl -s '${project.apiUrl}/rest/v1/call_logs?select=provider_call_id,check_state,check_reason,anomaly_score' \\
  -H 'apikey: ${project.serviceKey}'

Messages to Rui are printed here. Ctrl-C ends it all, and forgets it.
`);
  await stack.ended;
}

async function main(options: Options): Promise<void> {
  let isStopped = false;
  const stopped = new Promise<void>((resolve) => {
    const stop = () => {
      isStopped = true;
      resolve();
    };
    for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, stop);
  });
  let status = 0;
  try {
    console.log("Starting the database and the Data API ...");
    const project = await Promise.race([stopped, backend()]);
    if (project) {
      await using stack = new Stack(project, options);
      await Promise.race([stopped, show(stack)]);
      if (!isStopped) throw new Error(`The service has ended. Its last lines:\n${stack.lastLines()}`);
    }
  } catch (error) {
    // Ctrl-C ends the database at once: what breaks after it is no error.
    if (!isStopped) {
      console.log(`scripts/local: ${error instanceof Error ? error.message : error}`);
      status = 1;
    }
  }
  Deno.exit(status); // the database ends when its standard input does
}

if (import.meta.main) {
  let options: Options;
  try {
    options = optionsOf(Deno.args);
  } catch (error) {
    console.log(`scripts/local: ${(error as Error).message}; scripts/local --help says what it takes`);
    Deno.exit(2);
  }
  await main(options);
}
