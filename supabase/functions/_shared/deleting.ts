/**
 * Deleting what was erased: copies in Storage, and the provider's own. Claimed with a lease; done when it was seen to be gone;
 * tried again for ever, because there is no other end.
 */
import { Database, type DeletionClaim } from "./database.ts";
import { log } from "./events.ts";
import { FetchFailure } from "./fetches.ts";
import { kind, Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";
import { codeOf, PROVIDER, Vapi } from "./vapi.ts";

const LEASE_SECONDS = 120;

export interface Deleted {
  readonly claimed: number;
  readonly done: number;
  /** How many failed, by code. */
  readonly failed: Readonly<Record<string, number>>;
}

/** Delete what is due, until a moment of performance.now(). Raises a Problem where the database does not answer. */
export async function deleteDue(settings: Settings, until: number, at?: string): Promise<Deleted> {
  const database = new Database(settings);
  const worker = `delete-recordings ${crypto.randomUUID()}`;
  const failed: Record<string, number> = {};
  let claimed = 0, done = 0;
  while (performance.now() < until) {
    const [claim] = await database.claimDeletions(worker, 1, LEASE_SECONDS, at);
    if (!claim) break;
    claimed++;
    const code = await failureOf(() => remove(claim, database));
    if (code === null) {
      if (await database.finishDeletion(claim, at)) done++;
    } else {
      failed[code] = (failed[code] ?? 0) + 1;
      await database.failDeletion(claim, code, at);
    }
    log(code ? "warning" : "info", code ? "deletion_failed" : "deleted", {
      deletion_id: claim.deletion_id,
      kind: claim.kind,
      attempts: claim.attempts,
      code: code ?? undefined,
    });
  }
  return { claimed, done, failed };
}

async function remove(claim: DeletionClaim, database: Database): Promise<void> {
  const [place = "", ...rest] = claim.reference.split("/");
  const name = rest.join("/");
  if (claim.kind === "storage_object") return await database.remove(place, name);
  if (place !== PROVIDER) throw new Problem(500, "provider_unknown", "No such provider.");
  const vapi = new Vapi(database.settings);
  if (!vapi.hasKey) throw new Problem(500, "provider_key_missing", "VAPI_API_KEY is not set.");
  await vapi.deleteCall(name);
}

async function failureOf(work: () => Promise<void>): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    if (error instanceof Problem) return error.code;
    if (error instanceof FetchFailure) return codeOf(error);
    log("error", "internal_error", { error: kind(error) });
    return "internal_error";
  }
}
