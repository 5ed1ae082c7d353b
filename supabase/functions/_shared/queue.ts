/**
 * Working through a list of due work that the database leases out: recordings, deletions, messages, receipts.
 *
 * Nothing is lost where a run ends in the middle: the lease runs out, and another run claims the item again.
 */

/** How one item ended. `lost`: by then the lease was somebody else's. `failed`: a stable code. */
export type Outcome = "done" | "lost" | { readonly failed: string };

export interface Queue<Item> {
  /** Lease the next item that is due; undefined: there is none. */
  claim(): Promise<Item | undefined>;
  /** Do an item's work, and tell the database how it ended. What it throws ends the run. */
  work(item: Item): Promise<Outcome>;
  /** Claim nothing after this moment of performance.now(). */
  readonly until: number;
  /** How many items may be worked on at once; 1 if absent. */
  readonly lanes?: number;
  /** Runs each step, a claim and its work, in a turn that runs of other requests wait for. */
  readonly inTurn?: <T>(step: () => Promise<T>) => Promise<T>;
}

export interface Counts {
  readonly claimed: number;
  readonly done: number;
  readonly lost: number;
  /** How many failed, by code. */
  readonly failed: Readonly<Record<string, number>>;
  /** Everything that was due was claimed. */
  readonly isDone: boolean;
}

/**
 * Claim and work until nothing is due or the time is over. An error of `claim` or `work` is raised when the other lanes
 * have finished their items.
 */
export async function drain<Item>(queue: Queue<Item>): Promise<Counts> {
  const { lanes = 1, inTurn = (step) => step() } = queue;
  const outcomes: Outcome[] = [];
  let isDone = false;
  let hasFailed = false;
  const isOver = () => isDone || hasFailed || performance.now() >= queue.until;
  const step = async () => {
    if (isOver()) return; // it was not before it waited for its turn
    const item = await queue.claim();
    if (item === undefined) isDone = true;
    else outcomes.push(await queue.work(item));
  };
  const lane = async () => {
    try {
      while (!isOver()) await inTurn(step);
    } catch (error) {
      hasFailed = true;
      throw error;
    }
  };
  const ended = await Promise.allSettled(Array.from({ length: lanes }, lane));
  const failure = ended.find((one) => one.status === "rejected");
  if (failure) throw failure.reason;
  return { ...counted(outcomes), isDone };
}

function counted(outcomes: readonly Outcome[]): Omit<Counts, "isDone"> {
  const failed: Record<string, number> = {};
  for (const outcome of outcomes) {
    if (typeof outcome === "object") failed[outcome.failed] = (failed[outcome.failed] ?? 0) + 1;
  }
  const count = (wanted: Outcome) => outcomes.filter((outcome) => outcome === wanted).length;
  return { claimed: outcomes.length, done: count("done"), lost: count("lost"), failed };
}
