/** Vapi, as a provider. Its server URL is /call-webhook/vapi. */
import { Problem } from "../../_shared/http/problems.ts";
import { parseJson } from "../../_shared/http/requests.ts";
import { hostOf } from "../../_shared/settings.ts";
import type { Provider } from "../provider.ts";
import { apiUrl, VapiApi } from "./api.ts";
import { authenticate } from "./authentication.ts";
import { readReport } from "./report.ts";

export const vapi: Provider = {
  name: "vapi",
  recordingHosts: ["storage.vapi.ai", "*.r2.cloudflarestorage.com"],
  apiHost: (environment) => hostOf("VAPI_API_URL", apiUrl(environment)),
  authenticate,
  readReport: (body) => {
    const message = messageOf(parseJson(body));
    return message.type === "end-of-call-report" ? readReport(message) : undefined;
  },
  api: (environment, rules) => new VapiApi(environment, rules),
};

function messageOf(payload: unknown): Record<string, unknown> {
  const message = (payload as { message?: unknown } | null)?.message;
  if (typeof message !== "object" || message === null || typeof (message as { type?: unknown }).type !== "string") {
    throw new Problem(400, "not_a_message", "The body is not a message of Vapi: message.type is missing.");
  }
  return message as Record<string, unknown>;
}
