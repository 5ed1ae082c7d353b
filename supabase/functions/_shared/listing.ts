/**
 * The provider's list of calls, from the oldest update to the newest, whichever way the API sorts it.
 *
 * A page that is full is not trusted to hold all of its window: the window is halved until its page is not full. A page
 * that is too large or too slow is asked for again with fewer calls, then for a part of its window; the one call that is
 * too large by itself is passed over. So each page brings the list on.
 */
import { log } from "./events.ts";
import { FetchFailure } from "./fetches.ts";
import type { ListedCall, Vapi } from "./vapi.ts";

export interface Page {
  /** Those that no earlier page had. */
  readonly calls: readonly ListedCall[];
  /** Every call that was updated before this moment (milliseconds) has been given, or passed over. */
  readonly listedUntil: number;
  /** Calls of this page were passed over. */
  readonly isPassedOver?: true;
}

const PAGE = 100;
const SMALL_PAGE = 10;
/** The API gives no more at once. */
const LARGEST_PAGE = 1000;
/** Where a page fails, its window is cut into so many. */
const PARTS = 16;
/** Where the provider does not answer for so short a window, it does not answer at all. */
const SHORTEST_MILLISECONDS = 3600_000;

/** Give the calls that were updated between two moments (milliseconds), page by page. Raises a FetchFailure. */
export async function* updatedCalls(vapi: Vapi, since: number, until: number): AsyncGenerator<Page> {
  const windows: [from: number, until: number][] = [[since, until]]; // the next one last
  const divide = (from: number, until: number, parts: number) => {
    const step = Math.max(Math.ceil((until - from) / parts), 1);
    const cut: typeof windows = [];
    for (let at = from; at < until; at += step) cut.push([at, Math.min(at + step, until)]);
    windows.push(...cut.reverse());
  };
  const seen = new Set<unknown>();
  let largest = PAGE;
  for (let window = windows.pop(); window !== undefined; window = windows.pop()) {
    const [from, until] = window;
    const isInstant = until - from <= 1;
    const limit = isInstant && largest === PAGE ? LARGEST_PAGE : largest;
    try {
      const listed = await vapi.updatedCalls(from, until, limit);
      const calls = listed.filter((call) => typeof call?.id === "string" && !seen.has(call.id));
      calls.forEach((call) => seen.add(call.id));
      const isFull = listed.length >= limit;
      if (isFull && !isInstant) divide(from, until, 2);
      const isPassedOver = isFull && isInstant;
      if (isPassedOver) log("error", "sweep_page_full", { code: "too_many_calls_in_a_millisecond" });
      yield { calls, listedUntil: isFull && !isInstant ? from : until, ...(isPassedOver ? { isPassedOver } : {}) };
    } catch (error) {
      if (!(error instanceof FetchFailure)) throw error;
      const isLarge = error.code === "recording_too_large";
      const isSlow = error.code === "recording_unreachable" && (error.status === undefined || error.status >= 500);
      if (!isLarge && !isSlow) throw error;
      log("warning", "sweep_page_failed", { code: isLarge ? "page_too_large" : "page_too_slow", limit });
      if (limit > SMALL_PAGE) {
        largest = SMALL_PAGE;
        windows.push(window);
      } else if (until - from > (isLarge ? 1 : SHORTEST_MILLISECONDS)) {
        divide(from, until, PARTS);
      } else if (isLarge) {
        log("error", "sweep_call_too_large", { code: "call_too_large" });
        yield { calls: [], listedUntil: until, isPassedOver: true };
        continue;
      } else {
        throw error;
      }
      yield { calls: [], listedUntil: from };
    }
  }
}
