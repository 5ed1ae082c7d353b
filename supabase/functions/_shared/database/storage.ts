/** Recordings in Storage, with the project's secret key. */
import { createClient } from "npm:@supabase/supabase-js@2.119.0";
import { Problem } from "../http/problems.ts";
import { log } from "../log.ts";
import type { Settings } from "../settings.ts";

const RESPONSE_MILLISECONDS = 15_000;
/** The most that an upload may take. */
export const UPLOAD_MILLISECONDS = 60_000;
const CHUNK_BYTES = 262_144;

export class Storage {
  readonly #buckets;

  constructor(readonly settings: Settings) {
    this.#buckets = createClient(settings.supabaseUrl, settings.supabaseKey, {
      auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
      global: { fetch: fetchInTime },
    }).storage;
  }

  /** Put a file into the private bucket, replacing one of the same path. Raises a Problem (503). */
  async upload(path: string, content: Uint8Array, contentType: string): Promise<void> {
    const { error } = await this.#buckets.from(this.settings.bucket).upload(path, inChunks(content), {
      contentType,
      upsert: true,
      duplex: "half",
    });
    if (error) {
      const status = "status" in error ? Number(error.status) : 0;
      log("error", "storage_failed", { step: "upload", status });
      throw new Problem(503, "storage_unavailable", `Storage did not take the recording (${status || "no answer"}).`);
    }
  }

  /** Remove a file, and verify that it is gone. Raises a Problem (503). */
  async remove(bucket: string, path: string): Promise<void> {
    const files = this.#buckets.from(bucket);
    const { error } = await files.remove([path]);
    const folder = path.split("/").slice(0, -1).join("/"),
      name = path.split("/").at(-1)!;
    const { data: left, error: listError } = await files.list(folder, { search: name, limit: 100 });
    if (error || listError || left.some((file) => file.name === name)) {
      log("error", "storage_failed", { step: error ? "remove" : "list" });
      throw new Problem(503, "storage_unavailable", "Storage did not remove the recording.");
    }
  }
}

function fetchInTime(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
  const isUpload = init.body instanceof ReadableStream;
  const limit = AbortSignal.timeout(isUpload ? UPLOAD_MILLISECONDS : RESPONSE_MILLISECONDS);
  return fetch(input, { ...init, signal: init.signal ? AbortSignal.any([init.signal, limit]) : limit });
}

/** The content as a stream: given to fetch in one piece, it would be in memory three times. */
function inChunks(content: Uint8Array): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at < content.byteLength) {
        controller.enqueue(content.slice(at, at += CHUNK_BYTES));
      } else controller.close();
    },
  });
}
