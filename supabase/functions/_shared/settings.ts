/** The settings of the functions, from the environment; read anew for each request, so that requests share no state. */
import type { Provider, ProviderApi } from "../providers/provider.ts";
import type { FetchRules } from "./http/guarded_fetch.ts";
import { Problem } from "./http/problems.ts";

/** `Deno.env`, or a Map in a test. */
export interface Environment {
  get(name: string): string | undefined;
}

/** A hosted function has 256 MB of memory, most of which such a recording takes; Storage takes 50 MB by default. */
const MAXIMUM_RECORDING_BYTES = 50_000_000;

export interface Settings extends FetchRules {
  readonly supabaseUrl: string;
  readonly supabaseKey: string;
  readonly bucket: string;
  readonly serviceUrl: string | undefined;
  readonly serviceKey: string | undefined;
  /** The APIs of the phone providers, by the provider's name. */
  readonly apis: ReadonlyMap<string, ProviderApi>;
}

/** Read the settings, with those of these phone providers. Raises a Problem (500, `not_configured`) that names one. */
export function readSettings(environment: Environment, providers: readonly Provider[]): Settings {
  const supabaseUrl = withoutSlash(required(environment, "SUPABASE_URL"));
  const serviceUrl = environment.get("PYTHON_SERVICE_URL");
  const named = listed(environment.get("RETROCARE_FETCH_HOSTS"));
  const recordingHosts = [hostOf("SUPABASE_URL", supabaseUrl), ...providers.flatMap((one) => one.recordingHosts)];
  const rules: FetchRules = {
    fetchHosts: [...providers.map((one) => one.apiHost(environment)), ...(named.length ? named : recordingHosts)],
    fetchPrivateHosts: listed(environment.get("RETROCARE_FETCH_PRIVATE_HOSTS")),
    fetchAllowHttp: /^(1|true|yes|on)$/i.test(environment.get("RETROCARE_FETCH_ALLOW_HTTP") ?? ""),
    fetchSeconds: positive(environment, "RETROCARE_FETCH_SECONDS", 60),
    maximumRecordingBytes: positive(environment, "RETROCARE_MAXIMUM_RECORDING_BYTES", MAXIMUM_RECORDING_BYTES),
  };
  return {
    ...rules,
    supabaseUrl,
    supabaseKey: secretKey(environment),
    bucket: environment.get("SUPABASE_STORAGE_BUCKET") || environment.get("RETROCARE_STORAGE_BUCKET") ||
      "voice-recordings",
    serviceUrl: serviceUrl ? withoutSlash(serviceUrl) : undefined,
    serviceKey: environment.get("RETROCARE_API_KEY") || undefined,
    apis: new Map(providers.map((one) => [one.name, one.api(environment, rules)])),
  };
}

/** Raises a Problem (500, `not_configured`) if the setting is missing. */
export function required(environment: Environment, name: string): string {
  const value = environment.get(name);
  if (!value) throw notConfigured(`${name} is not set.`);
  return value;
}

export function notConfigured(detail: string): Problem {
  return new Problem(500, "not_configured", detail, "Functions take their settings from `supabase secrets set`.");
}

/** The host of a setting's URL. Raises a Problem (500, `not_configured`). */
export function hostOf(name: string, url: string): string {
  try {
    return new URL(url).hostname;
  } catch {
    throw notConfigured(`${name} is not a URL.`);
  }
}

export function withoutSlash(url: string): string {
  return url.replace(/\/+$/, "");
}

/** The project's secret key, by any of the names that a project has for it. */
function secretKey(environment: Environment): string {
  const key = environment.get("SUPABASE_SECRET_KEY") || environment.get("SUPABASE_SERVICE_ROLE_KEY") ||
    defaultKey(environment.get("SUPABASE_SECRET_KEYS"));
  return key || required(environment, "SUPABASE_SECRET_KEY");
}

function defaultKey(keys: string | undefined): string | undefined {
  try {
    const named: unknown = JSON.parse(keys ?? "{}");
    const key = (named as Record<string, unknown>).default;
    return typeof key === "string" ? key : undefined;
  } catch {
    return undefined;
  }
}

function positive(environment: Environment, name: string, otherwise: number): number {
  const value = Number(environment.get(name) || otherwise);
  if (!(value > 0)) throw notConfigured(`${name} is not a number above 0.`);
  return value;
}

function listed(text: string | undefined): string[] {
  return (text ?? "").toLowerCase().split(",").map((entry) => entry.trim()).filter((entry) => entry !== "");
}
