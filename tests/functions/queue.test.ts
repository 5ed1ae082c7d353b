import assert from "node:assert/strict";
import { drain, type Outcome, type Queue } from "../../supabase/functions/_shared/queue.ts";

const LATER = () => performance.now() + 60_000;

/** A queue of these outcomes; `working` is called with how many are worked on at the moment. */
function queueOf(
  outcomes: (Outcome | Error)[],
  named: Partial<Queue<Outcome | Error>> = {},
  working: (count: number) => Promise<void> | void = () => {},
): Queue<Outcome | Error> {
  let count = 0;
  return {
    claim: () => Promise.resolve(outcomes.shift()),
    work: async (outcome) => {
      await working(++count);
      count--;
      if (outcome instanceof Error) throw outcome;
      return outcome;
    },
    until: LATER(),
    ...named,
  };
}

const pause = () => new Promise<void>((resolve) => setTimeout(resolve, 20));

Deno.test("drain() counts what was done, lost and failed, by code, until nothing is due", async () => {
  const outcomes: Outcome[] = ["done", { failed: "a" }, "lost", { failed: "b" }, { failed: "a" }, "done"];
  assert.deepEqual(await drain(queueOf(outcomes)), {
    claimed: 6,
    done: 2,
    lost: 1,
    failed: { a: 2, b: 1 },
    isDone: true,
  });
  assert.deepEqual(await drain(queueOf([])), { claimed: 0, done: 0, lost: 0, failed: {}, isDone: true });
});

Deno.test("drain() works on as many items at once as it has lanes, one by default", async () => {
  for (const lanes of [undefined, 1, 4]) {
    let most = 0;
    const queue = queueOf(Array(12).fill("done"), lanes ? { lanes } : {}, (count) => {
      most = Math.max(most, count);
      return pause();
    });
    assert.equal((await drain(queue)).done, 12);
    assert.equal(most, lanes ?? 1);
  }
});

Deno.test("drain() claims nothing after its time, and ends what it has claimed", async () => {
  const due: Outcome[] = Array(12).fill("done");
  const counts = await drain(queueOf(due, { until: performance.now() + 10, lanes: 2 }, pause));
  assert.deepEqual([counts.done, counts.isDone, due.length], [2, false, 10]);
  assert.equal((await drain(queueOf(due, { until: performance.now() }))).claimed, 0);
});

Deno.test("drain() claims no more after an error, lets the other lanes finish their items, and raises it", async () => {
  const due: (Outcome | Error)[] = ["done", new Error("away"), "done", "done", "done"];
  let ended = 0;
  const queue = queueOf(due, { lanes: 2 });
  const work = async (outcome: Outcome | Error) => {
    if (!(outcome instanceof Error)) await pause();
    ended++;
    return await queue.work(outcome);
  };
  await assert.rejects(drain({ ...queue, work }), /away/);
  assert.deepEqual([ended, due.length], [2, 3]);
  await assert.rejects(drain(queueOf([], { claim: () => Promise.reject(new Error("away")) })), /away/);
});

Deno.test("drain() takes a turn for each claim and its work, and claims nothing if its time ended while it waited", async () => {
  let last: Promise<unknown> = Promise.resolve();
  let most = 0, open = 0;
  const inTurn = <T>(step: () => Promise<T>): Promise<T> => {
    const turn = last.then(step);
    last = turn;
    return turn;
  };
  const working = async () => {
    most = Math.max(most, ++open);
    await pause();
    open--;
  };
  const run = (until: number) => drain(queueOf(Array(3).fill("done"), { inTurn, until }, working));
  const [first, second, third] = await Promise.all([run(LATER()), run(LATER()), run(performance.now() + 10)]);
  assert.deepEqual([first!.done, second!.done, most], [3, 3, 1]);
  assert.deepEqual([third!.claimed, third!.isDone], [0, false]);
});
