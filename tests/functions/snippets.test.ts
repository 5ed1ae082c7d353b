/** The TypeScript of the documents fits the database's types. */
import assert from "node:assert/strict";

const HERE = new URL(".", import.meta.url);
const DOCS = new URL("../../docs/", import.meta.url);
const TYPES = new URL("../../supabase/database.types.ts", import.meta.url);

/** What a page of the dashboard has at hand when it uses a snippet. */
const AT_HAND = `
declare const supabase: SupabaseClient<Database>;
declare const reload: () => void;
declare const patientId: string, patient_id: string, alert_id: string, call_log_id: string, caregiver_id: string;
declare const embedding: readonly number[];
declare const phone: string | null, webhook_url: string | null, user_id: string | null, patient_known_as: string | null;
`;
const SIGN_IN = `
declare const URL: string, PUBLISHABLE_KEY: string, email: string, password: string;
`;

/** A module of all snippets, each in a function of its own; the one that signs in stands by itself. */
function modules(page: string): { signIn: string; others: string; count: number } {
  const snippets = [...page.matchAll(/```(?:js|ts)\n([^]*?)```/g)].map(([, code]) => code!);
  const isSignIn = (code: string) => code.startsWith("import");
  const others = snippets.filter((code) => !isSignIn(code));
  const typed = snippets.filter(isSignIn).join("").replaceAll(
    "'@supabase/supabase-js'",
    "'npm:@supabase/supabase-js@2.119.0'",
  );
  return {
    signIn: `${typed}${SIGN_IN}export {};\n`,
    others: `import type { SupabaseClient } from "npm:@supabase/supabase-js@2.119.0";
import type { Database } from "${TYPES}";
${AT_HAND}${others.map((code, number) => `export async function snippet${number}() {\n${code}}\n`).join("")}`,
    count: snippets.length,
  };
}

async function check(name: string, code: string): Promise<string> {
  const file = await Deno.makeTempFile({ prefix: name, suffix: ".ts" });
  try {
    await Deno.writeTextFile(file, code);
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["check", "--config", new URL("deno.json", HERE).pathname, file],
      cwd: HERE,
      env: { NO_COLOR: "1" },
    }).output();
    return success ? "" : new TextDecoder().decode(stderr);
  } finally {
    await Deno.remove(file);
  }
}

Deno.test("every snippet of the documents fits the database's types", async () => {
  const pages = [...Deno.readDirSync(DOCS)].map(({ name }) => name).filter((name) => name.endsWith(".md")).sort();
  const text = await Promise.all(pages.map((name) => Deno.readTextFile(new URL(name, DOCS))));
  const { signIn, others, count } = modules(text.join("\n"));
  assert.ok(count >= 11);
  assert.equal(await check("sign-in", signIn), "");
  assert.equal(await check("snippets", others), "");
});
