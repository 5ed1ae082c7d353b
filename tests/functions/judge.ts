/** The Python service of a simulated day (judging.py), which runs the queued checks when it is given the time. */
import type { Backend } from "./backend.ts";

export class Judge {
  private constructor(
    readonly folder: string,
    readonly encoder: string,
    readonly process: Deno.ChildProcess,
    readonly lines: AsyncIterator<string>,
    readonly input: WritableStreamDefaultWriter<Uint8Array>,
  ) {}

  static async start(project: Backend, calls: number): Promise<Judge> {
    const folder = await Deno.makeTempDir({ prefix: "retrocare-day-" });
    const python = Deno.env.get("RETROCARE_PYTHON") ?? new URL("../../.venv/bin/python", import.meta.url).pathname;
    const process = new Deno.Command(python, {
      args: [new URL("judging.py", import.meta.url).pathname, folder, String(calls)],
      env: {
        DATABASE_URL: project.serviceUrl,
        SUPABASE_URL: project.apiUrl,
        SUPABASE_SECRET_KEY: project.serviceKey,
        SUPABASE_STORAGE_BUCKET: project.bucket,
      },
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const lines = linesOf(process.stdout);
    const first = await lines.next();
    if (first.done) throw new Error("judging.py ended before it began");
    return new Judge(folder, JSON.parse(first.value).encoder, process, lines, process.stdin.getWriter());
  }

  recording(name: string): Promise<Uint8Array> {
    return Deno.readFile(`${this.folder}/${name}.wav`);
  }

  /** Where the patient begins in a stereo recording, after the agent: seconds. */
  async agentSeconds(): Promise<number> {
    return Number(await Deno.readTextFile(`${this.folder}/agent-seconds`));
  }

  /** Run every queued check; returns how many ended in each state. */
  async at(moment: string): Promise<Record<string, number>> {
    await this.input.write(new TextEncoder().encode(`${moment}\n`));
    const { value, done } = await this.lines.next();
    if (done) throw new Error("judging.py has ended");
    return JSON.parse(value);
  }

  async end(): Promise<void> {
    await this.input.close();
    while (!(await this.lines.next()).done);
    await this.process.status;
    await Deno.remove(this.folder, { recursive: true });
  }
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let kept = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (kept + text).split("\n");
    kept = lines.pop() ?? "";
    yield* lines;
  }
}
