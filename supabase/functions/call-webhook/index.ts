/**
 * Receives the phone providers' reports of finished calls. Each provider posts to a URL of its own,
 * /call-webhook/<provider>, and expects a response within seconds.
 *
 * Requests of anybody but the provider are refused. A report that was answered with 200 is a row, once, however often
 * it comes; the response does not wait for the recording. Any other report may be sent again, and one that never comes
 * is found when collect-recordings reconciles. Messages of other kinds are acknowledged and ignored.
 */
import { Database } from "../_shared/database/client.ts";
import { errorKind, Problem, respond } from "../_shared/http/problems.ts";
import { requirePost } from "../_shared/http/requests.ts";
import { log } from "../_shared/log.ts";
import { collect } from "../_shared/recordings/collect.ts";
import { type Environment, readSettings } from "../_shared/settings.ts";
import { type CallReport, type Provider, UnreadableReport } from "../providers/provider.ts";
import { PROVIDERS } from "../providers/registry.ts";

const COLLECT_MILLISECONDS = 60_000;

/** Keeps the function alive until the work is done, after the response was sent. */
export type WaitUntil = (work: Promise<unknown>) => void;

declare const EdgeRuntime: { waitUntil: WaitUntil } | undefined;

const inBackground: WaitUntil = (work) => {
  if (typeof EdgeRuntime !== "undefined") EdgeRuntime.waitUntil(work);
};

export function handle(
  request: Request,
  environment: Environment = Deno.env,
  waitUntil: WaitUntil = inBackground,
  providers = PROVIDERS,
): Promise<Response> {
  return respond("call-webhook", async () => {
    requirePost(request);
    const provider = providerOf(request, providers);
    const report = reportOf(provider, await provider.authenticate(request, environment));
    if (!report) return Response.json({ received: false });
    const settings = readSettings(environment, providers);
    const call = await new Database(settings).receiveCallReport(provider.name, report);
    log("info", "call_received", { provider: provider.name, ...call });
    if (call.call_log_id && (call.disposition === "judge" || call.disposition === "unknown")) {
      const options = { callLogId: call.call_log_id, until: performance.now() + COLLECT_MILLISECONDS };
      waitUntil(
        collect(settings, options).catch((error) => {
          log("error", "collecting_failed", { call_log_id: call.call_log_id, error: errorKind(error) });
        }),
      );
    }
    return Response.json({ received: true, ...call });
  });
}

function providerOf(request: Request, providers: readonly Provider[]): Provider {
  const [, name] = /\/call-webhook\/([^/]+)\/?$/.exec(new URL(request.url).pathname) ?? [];
  const provider = providers.find((one) => one.name === name);
  if (!provider) {
    throw new Problem(404, "unknown_provider", "The URL ends with the name of no provider that is deployed.");
  }
  return provider;
}

function reportOf(provider: Provider, body: Uint8Array): CallReport | undefined {
  try {
    return provider.readReport(body);
  } catch (error) {
    if (error instanceof UnreadableReport) throw new Problem(400, "unreadable_report", error.message);
    throw error;
  }
}

if (import.meta.main) Deno.serve((request) => handle(request));
