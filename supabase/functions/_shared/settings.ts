/** What the environment decides. A function reads it once a request, so that no request works with another's settings. */
import { Problem } from "./problems.ts";

/** `Deno.env`, or a Map in a test. */
export interface Environment {
  get(name: string): string | undefined;
}

/** Where Vapi and its storage serve recordings; a bucket of your own is named by RETROCARE_FETCH_HOSTS. */
const RECORDING_HOSTS = ["storage.vapi.ai", "*.r2.cloudflarestorage.com"];

/** Hosted functions have 256 MB of memory, of which such a recording takes most; Storage takes 50 MB unless told otherwise. */
const MAXIMUM_RECORDING_BYTES = 50_000_000;

export interface Settings {
  readonly supabaseUrl: string;
  readonly supabaseKey: string;
  readonly bucket: string;
  /** Of Vapi's API, without a slash at its end. */
  readonly vapiUrl: string;
  readonly vapiKey: string | undefined;
  readonly serviceUrl: string | undefined;
  readonly serviceKey: string | undefined;
  readonly fetchHosts: readonly string[];
  readonly fetchPrivateHosts: readonly string[];
  readonly fetchAllowHttp: boolean;
  readonly fetchSeconds: number;
  readonly maximumRecordingBytes: number;
}

/** Raises a Problem (500, `not_configured`) that names the setting that is missing or wrong. */
export function readSettings(environment: Environment): Settings {
  const supabaseUrl = trimmed(required(environment, "SUPABASE_URL"));
  const vapiUrl = trimmed(environment.get("VAPI_API_URL") || "https://api.vapi.ai");
  const named = listed(environment.get("RETROCARE_FETCH_HOSTS"));
  return {
    supabaseUrl,
    supabaseKey: secretKey(environment),
    bucket: environment.get("SUPABASE_STORAGE_BUCKET") || environment.get("RETROCARE_STORAGE_BUCKET") ||
      "voice-recordings",
    vapiUrl,
    vapiKey: environment.get("VAPI_API_KEY") || undefined,
    serviceUrl: environment.get("PYTHON_SERVICE_URL") ? trimmed(environment.get("PYTHON_SERVICE_URL")!) : undefined,
    serviceKey: environment.get("RETROCARE_API_KEY") || undefined,
    fetchHosts: [
      hostOf("VAPI_API_URL", vapiUrl),
      ...(named.length ? named : [hostOf("SUPABASE_URL", supabaseUrl), ...RECORDING_HOSTS]),
    ],
    fetchPrivateHosts: listed(environment.get("RETROCARE_FETCH_PRIVATE_HOSTS")),
    fetchAllowHttp: /^(1|true|yes|on)$/i.test(environment.get("RETROCARE_FETCH_ALLOW_HTTP") ?? ""),
    fetchSeconds: positive(environment, "RETROCARE_FETCH_SECONDS", 60),
    maximumRecordingBytes: positive(environment, "RETROCARE_MAXIMUM_RECORDING_BYTES", MAXIMUM_RECORDING_BYTES),
  };
}

/** Raises a Problem (500, `not_configured`) where the setting is not there. */
export function required(environment: Environment, name: string): string {
  const value = environment.get(name);
  if (!value) throw notConfigured(`${name} is not set.`);
  return value;
}

export function notConfigured(detail: string): Problem {
  return new Problem(500, "not_configured", detail, "Functions take their settings from `supabase secrets set`.");
}

/** The project's secret key, by each of the names under which a project knows it. */
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

function hostOf(name: string, url: string): string {
  try {
    return new URL(url).hostname;
  } catch {
    throw notConfigured(`${name} is not a URL.`);
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

function trimmed(url: string): string {
  return url.replace(/\/+$/, "");
}
