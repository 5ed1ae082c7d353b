/** Python programs for tests: each prints one line of JSON, and ends when its standard input does. */

export interface Program<Line> {
  readonly line: Line;
  /** End it; returns what it printed after its first line. */
  end(): Promise<string>;
}

/** Start a program of this folder, with the Python in which the service is installed. */
export async function started<Line>(name: string): Promise<Program<Line>> {
  const python = Deno.env.get("RETROCARE_PYTHON") ?? new URL("../../.venv/bin/python", import.meta.url).pathname;
  const process = new Deno.Command(python, {
    args: [new URL(name, import.meta.url).pathname],
    stdin: "piped", // closed by the kernel when this process ends, however it ends
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  process.unref();
  const reader = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  const listen = async (isEnough: () => boolean) => {
    while (!isEnough()) {
      const { value, done } = await reader.read();
      if (done) break;
      said += value;
    }
  };
  await listen(() => said.includes("\n"));
  if (!said.includes("\n")) throw new Error(`${name} ended before it said anything`);
  const [line = "", ...rest] = said.split("\n");
  said = rest.join("\n");
  return {
    line: JSON.parse(line),
    end: async () => {
      process.ref();
      await process.stdin.close();
      await listen(() => false);
      await process.status;
      return said;
    },
  };
}
