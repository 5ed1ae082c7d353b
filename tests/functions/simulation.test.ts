/** A small day is played with every check-up; a whole one by scripts/day. */
import assert from "node:assert/strict";
import { backend } from "./backend.ts";
import { outcome } from "../../tools/simulation/outcome.ts";
import { Day } from "../../tools/simulation/day.ts";
import { listenToLines } from "./serving.ts";

const project = await backend();
listenToLines();

Deno.test("a day of calls loses none, doubles none, and tells of each episode once", async () => {
  await using day = await Day.prepare(project, { calls: 32, patients: 4, seed: 5 }, () => {});
  await day.play();
  const { counts, problems } = await outcome(day);
  assert.deepEqual(problems, []);
  assert.equal(counts["calls"], 32);
  assert.ok(counts["emergencies"]! > 0 && counts["voicemails, busy lines and errors"]! > 0);
});
