/**
 * Vapi calls this when a call has ended (its server URL), and expects an answer within seconds.
 *
 * It promises: nobody but the holder of the secret is listened to; a report that was answered with 200 is a row, once,
 * however often it comes; the answer does not wait for the recording. A report that was not answered so may be sent
 * again; one that never comes is found by the sweep of collect-recordings.
 *
 * Messages of other kinds are answered and left alone.
 */
import { collect } from "../_shared/collecting.ts";
import { Database } from "../_shared/database.ts";
import { log } from "../_shared/events.ts";
import { answered, kind, Problem } from "../_shared/problems.ts";
import { type CallReport, readReport, UnreadableReport } from "../_shared/report.ts";
import { parseJson, readBody, requirePost } from "../_shared/requests.ts";
import { carriesSignature, requireSignature, showsSecret, unauthorized, webhookSecrets } from "../_shared/senders.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";

const MAXIMUM_BODY_BYTES = 2_000_000;
const COLLECT_MILLISECONDS = 60_000;

/** Keeps the function alive until the work is done, after its answer was sent. */
export type WaitUntil = (work: Promise<unknown>) => void;

declare const EdgeRuntime: { waitUntil: WaitUntil } | undefined;

const inBackground: WaitUntil = (work) => {
  if (typeof EdgeRuntime !== "undefined") EdgeRuntime.waitUntil(work);
};

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  waitUntil: WaitUntil = inBackground,
): Promise<Response> {
  return answered("vapi-webhook", async () => {
    requirePost(request);
    const message = messageOf(parseJson(await authenticatedBody(request, environment)));
    if (message.type !== "end-of-call-report") return Response.json({ received: false });
    const settings = readSettings(environment);
    const report = reportOf(message);
    const call = await new Database(settings).receiveCallReport(report);
    log("info", "call_received", { ...call });
    if (call.call_log_id && (call.disposition === "judge" || call.disposition === "unknown")) {
      const errand = { callLogId: call.call_log_id, until: performance.now() + COLLECT_MILLISECONDS };
      waitUntil(
        collect(settings, errand).catch((error) => {
          log("error", "collecting_failed", { call_log_id: call.call_log_id, error: kind(error) });
        }),
      );
    }
    return Response.json({ received: true, ...call });
  });
}

/** The raw body, of a sender who is known. Without anything to know him by, it is not even read. */
async function authenticatedBody(request: Request, environment: Environment): Promise<Uint8Array> {
  const secrets = webhookSecrets(environment);
  const isKnown = showsSecret(request.headers, secrets);
  if (!isKnown && !carriesSignature(request.headers, secrets)) {
    throw unauthorized("The sender shows no secret that is ours.");
  }
  const body = await readBody(request, MAXIMUM_BODY_BYTES);
  if (!isKnown) requireSignature(request.headers, body, secrets, Date.now());
  return body;
}

function messageOf(payload: unknown): Record<string, unknown> {
  const message = (payload as { message?: unknown } | null)?.message;
  if (typeof message !== "object" || message === null || typeof (message as { type?: unknown }).type !== "string") {
    throw new Problem(400, "not_a_message", "The body is no message of the provider: message.type is missing.");
  }
  return message as Record<string, unknown>;
}

function reportOf(message: Record<string, unknown>): CallReport {
  try {
    return readReport(message);
  } catch (error) {
    if (error instanceof UnreadableReport) throw new Problem(400, "unreadable_report", error.message);
    throw error;
  }
}

if (import.meta.main) Deno.serve((request) => handle(request));
