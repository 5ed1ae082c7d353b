/**
 * A day is played: patients are phoned; the provider reports calls twice, out of order, or never; its addresses expire,
 * and recordings come late; the text message gateway refuses for an hour, and now and then takes a message and hangs
 * up. Everything is real but the provider, the gateway, and the clock, which each part is told. In the end everything
 * is counted.
 *
 *     deno run --allow-all tests/functions/day.ts [--calls 200] [--patients 20] [--seed 1]
 */
import { backend } from "./backend.ts";
import { type Outcome, outcome } from "./outcome.ts";
import type { Size } from "./planning.ts";
import { Day } from "./playing.ts";

export async function play(size: Size, say: (line: string) => void): Promise<Outcome> {
  await using day = await Day.prepare(await backend(), size, say);
  await day.play();
  return await outcome(day);
}

function sizeOf(words: readonly string[]): Size {
  const given = new Map<string, number>();
  for (let at = 0; at < words.length; at += 2) given.set(words[at]!, Number(words[at + 1]));
  const number = (name: string, otherwise: number) => given.get(name) ?? otherwise;
  return { calls: number("--calls", 200), patients: number("--patients", 20), seed: number("--seed", 1) };
}

if (import.meta.main) {
  console.error = () => {}; // the functions' own lines
  const begun = performance.now();
  const { counts, problems } = await play(sizeOf(Deno.args), (line) => console.log(line));
  for (const [name, count] of Object.entries(counts)) console.log(`${String(count).padStart(6)}  ${name}`);
  for (const problem of problems) console.log(`WRONG   ${problem}`);
  console.log(`The day took ${((performance.now() - begun) / 1000).toFixed(0)} s.`);
  Deno.exit(problems.length ? 1 : 0);
}
