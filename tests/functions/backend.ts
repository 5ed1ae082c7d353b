/**
 * The Supabase project that a test file works on: its addresses, a supabase-js client, and SQL as the superuser.
 *
 * `backend()` takes the project that RETROCARE_TEST_BACKEND describes (backend.py COMMAND sets it), or starts one of
 * its own, which ends when this process does. Call it once, at the top of a test file, before the first test, so that
 * no test is blamed for what it opens; and `fresh()` at the beginning of each test.
 */
import { createClient, type SupabaseClient } from "npm:@supabase/supabase-js@2.119.0";
import postgres from "npm:postgres@3.4.9";
import { started } from "./programs.ts";

export interface Backend {
  readonly apiUrl: string;
  /** The project's secret key: service_role over the API. */
  readonly serviceKey: string;
  /** The key that a browser has: anon, until somebody signs in. */
  readonly publishableKey: string;
  /** What the API signs the accounts' tokens with. */
  readonly jwtSecret: string;
  readonly bucket: string;
  /** The database as retrocare_service. */
  readonly serviceUrl: string;
  readonly database: { readonly host: string; readonly port: number; readonly database: string };
  readonly client: SupabaseClient;
  /** SQL on one connection, past every grant and policy: to arrange and to look, never what is tested. */
  readonly sql: postgres.Sql;
  /** Put every table back to what the migrations left. */
  fresh(): Promise<void>;
}

interface Line {
  api_url: string;
  service_key: string;
  publishable_key: string;
  jwt_secret: string;
  bucket: string;
  service_url: string;
  database: { host: string; port: number; database: string };
}

export async function backend(): Promise<Backend> {
  const given = Deno.env.get("RETROCARE_TEST_BACKEND");
  const line: Line = given ? JSON.parse(given) : (await started<Line>("backend.py")).line;
  const sql = postgres({
    ...line.database,
    user: "supabase_admin",
    max: 1,
    fetch_types: false,
    connection: { TimeZone: "UTC" },
    onnotice: () => {},
  });
  await sql`select 1`;
  globalThis.addEventListener("unload", () => void sql.end({ timeout: 0 }));
  return {
    apiUrl: line.api_url,
    serviceKey: line.service_key,
    publishableKey: line.publishable_key,
    jwtSecret: line.jwt_secret,
    bucket: line.bucket,
    serviceUrl: line.service_url,
    database: line.database,
    client: createClient(line.api_url, line.service_key, { auth: { persistSession: false, autoRefreshToken: false } }),
    sql,
    fresh: async () => void await sql`call fixture.reset()`,
  };
}
