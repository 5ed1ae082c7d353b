/**
 * Deleting what was erased: copies in Storage, and calls at the phone providers. Retried until each is seen to be gone.
 */
import { Database, type DeletionClaim } from "../_shared/database/client.ts";
import { Storage } from "../_shared/database/storage.ts";
import { FetchFailure } from "../_shared/http/fetch_failure.ts";
import { errorKind, Problem } from "../_shared/http/problems.ts";
import { log } from "../_shared/log.ts";
import { type Counts, drain, type Outcome } from "../_shared/queue.ts";
import type { RunOptions } from "../_shared/run_options.ts";
import type { Settings } from "../_shared/settings.ts";
import { apiFailureCode } from "../providers/provider.ts";

const LEASE_SECONDS = 120;

/** Delete what is due. Raises a Problem if the database does not answer. */
export function deleteDue(settings: Settings, { at, until }: RunOptions): Promise<Counts> {
  const database = new Database(settings);
  const worker = `delete-recordings ${crypto.randomUUID()}`;
  return drain({
    claim: () => database.claimDeletion(worker, LEASE_SECONDS, at),
    work: (claim) => finish(claim, database, at),
    until,
  });
}

async function finish(claim: DeletionClaim, database: Database, at?: string): Promise<Outcome> {
  const fields = { deletion_id: claim.deletion_id, kind: claim.kind, attempts: claim.attempts };
  try {
    await remove(claim, database.settings);
  } catch (error) {
    const code = codeOf(error);
    await database.failDeletion(claim, code, at);
    log("warning", "deletion_failed", { ...fields, code });
    return { failed: code };
  }
  const isOurs = await database.finishDeletion(claim, at);
  log("info", isOurs ? "deletion_done" : "lease_lost", fields);
  return isOurs ? "done" : "lost";
}

async function remove({ kind, reference }: DeletionClaim, settings: Settings): Promise<void> {
  const [place = "", ...rest] = reference.split("/");
  const name = rest.join("/");
  if (kind === "storage_object") return await new Storage(settings).remove(place, name);
  // A call's place is its account, and a provider's own account, whose key is known here, has the provider's name.
  const api = settings.apis.get(place);
  if (!api) throw new Problem(500, "unknown_provider", "No provider of that name is deployed.");
  if (!api.hasKey) throw new Problem(500, "provider_key_missing", `${api.keySetting} is not set.`);
  await api.deleteCall(name);
}

function codeOf(error: unknown): string {
  if (error instanceof Problem) return error.code;
  if (error instanceof FetchFailure) return apiFailureCode(error);
  log("error", "internal_error", { error: errorKind(error) });
  return "internal_error";
}
