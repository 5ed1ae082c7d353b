/**
 * The list of a provider's calls, from the oldest update to the newest, whatever order the API sorts it in.
 *
 * A full page may not hold all of its window, so that the window is halved until its page is not full. A page that is
 * too large or too slow is requested again with fewer calls, then for a part of its window; a single call that is too
 * large is skipped. So every request makes progress.
 */
import { FetchFailure } from "../_shared/http/fetch_failure.ts";
import { log } from "../_shared/log.ts";
import type { ListedCall, ProviderApi } from "../providers/provider.ts";

export interface Page {
  /** Those that were not on an earlier page. */
  readonly calls: readonly ListedCall[];
  /** Every call that was updated before this time (milliseconds) has been listed or skipped. */
  readonly listedUntil: number;
  /** Calls of this page were skipped. */
  readonly hasSkipped?: true;
}

const PAGE = 100;
const SMALL_PAGE = 10;
/** How many parts the window of a page that fails is cut into. */
const PARTS = 16;
/** A provider that does not answer for a window this short does not answer at all. */
const SHORTEST_MILLISECONDS = 3600_000;

/** List the calls that were updated between two times (milliseconds), page by page. Raises a FetchFailure. */
export async function* updatedCalls(api: ProviderApi, since: number, until: number): AsyncGenerator<Page> {
  const windows: [from: number, until: number][] = [[since, until]]; // the last one is listed next
  const divide = (from: number, until: number, parts: number) => {
    const step = Math.max(Math.ceil((until - from) / parts), 1);
    const cut: typeof windows = [];
    for (let at = from; at < until; at += step) cut.push([at, Math.min(at + step, until)]);
    windows.push(...cut.reverse());
  };
  const seen = new Set<string>();
  let largest = Math.min(PAGE, api.largestPage);
  for (let window = windows.pop(); window !== undefined; window = windows.pop()) {
    const [from, until] = window;
    const isInstant = until - from <= 1;
    const limit = isInstant && largest > SMALL_PAGE ? api.largestPage : largest;
    try {
      const { calls: listed, isFull } = await api.listUpdatedCalls(from, until, limit);
      const calls = listed.filter(({ id }) => !seen.has(id));
      calls.forEach(({ id }) => seen.add(id));
      if (isFull && !isInstant) divide(from, until, 2);
      const hasSkipped = isFull && isInstant;
      if (hasSkipped) log("error", "call_list_incomplete", { code: "too_many_calls_in_a_millisecond" });
      yield { calls, listedUntil: isFull && !isInstant ? from : until, ...(hasSkipped ? { hasSkipped } : {}) };
    } catch (error) {
      if (!(error instanceof FetchFailure)) throw error;
      const isLarge = error.code === "recording_too_large";
      const isSlow = error.code === "recording_unreachable" && (error.status === undefined || error.status >= 500);
      if (!isLarge && !isSlow) throw error;
      log("warning", "call_list_failed", { code: isLarge ? "page_too_large" : "page_too_slow", limit });
      if (limit > SMALL_PAGE) {
        largest = SMALL_PAGE;
        windows.push(window);
      } else if (until - from > (isLarge ? 1 : SHORTEST_MILLISECONDS)) {
        divide(from, until, PARTS);
      } else if (isLarge) {
        log("error", "call_list_incomplete", { code: "call_too_large" });
        yield { calls: [], listedUntil: until, hasSkipped: true };
        continue;
      } else {
        throw error;
      }
      yield { calls: [], listedUntil: from };
    }
  }
}
