import assert from "node:assert/strict";
import { isPublic } from "../../supabase/functions/_shared/http/addresses.ts";
import { INTERNET, type Network } from "../../supabase/functions/_shared/http/pinned_client.ts";
import { FetchFailure } from "../../supabase/functions/_shared/http/fetch_failure.ts";
import { type FetchRules, get } from "../../supabase/functions/_shared/http/guarded_fetch.ts";
import { started } from "./programs.ts";

interface Corpus {
  addresses: { url: string; refusal: string; answers: string[]; settings: Record<string, string | boolean> }[];
  redirects: string[];
  hostile: [name: string, expected: string][];
  not_public: string[];
  public: string[];
  maximum_bytes: number;
  host: number;
  canary: number;
  secure: Record<string, number>;
  authority: string;
}

const PUBLIC = "93.184.216.34";
const program = await started<Corpus>("corpus.py");
const corpus = program.line;
const host = `http://127.0.0.1:${corpus.host}`;
const text = new TextDecoder();

function rules(named: Partial<FetchRules> = {}): FetchRules {
  return {
    fetchHosts: [],
    fetchPrivateHosts: [],
    fetchAllowHttp: false,
    fetchSeconds: 20,
    maximumRecordingBytes: corpus.maximum_bytes,
    ...named,
  };
}

/** Names the corpus's host as private, and allows every public one. */
function namingHost(named: Partial<FetchRules> = {}): FetchRules {
  return rules({ fetchHosts: ["*"], fetchAllowHttp: true, fetchPrivateHosts: [`127.0.0.1:${corpus.host}`], ...named });
}

/** A network that resolves names to these addresses, records each connection, and makes it to a port of loopback. */
function rerouted(answers: string[] | ((host: string) => string[]), port: number, refusing: string[] = []) {
  const connections: [string, number][] = [];
  const network: Network = {
    resolve: (name) => Promise.resolve(typeof answers === "function" ? answers(name) : answers),
    connect: (address, wanted) => {
      connections.push([address, wanted]);
      if (refusing.includes(address)) return Promise.reject(new Deno.errors.ConnectionRefused());
      return Deno.connect({ hostname: "127.0.0.1", port });
    },
    caCerts: [corpus.authority],
  };
  return { network, connections };
}

async function failure(work: Promise<unknown>): Promise<FetchFailure> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof FetchFailure, String(error));
    return error;
  }
  throw new Error("nothing was refused");
}

Deno.test("get() refuses every address that the service's guard refuses, and reaches nobody", async () => {
  for (const { url, refusal, answers, settings } of corpus.addresses) {
    const listed = (name: string) =>
      String(settings[name] ?? "").split(",").map((one) => one.trim()).filter((one) => one);
    const own = settings.supabase_url ? [new URL(String(settings.supabase_url)).hostname] : [];
    const { network, connections } = rerouted(answers, corpus.canary);
    const met = await failure(get(
      url,
      rules({
        fetchHosts: listed("fetch_hosts").length ? listed("fetch_hosts") : own,
        fetchPrivateHosts: listed("fetch_private_hosts"),
        fetchAllowHttp: settings.fetch_allow_http === true,
      }),
      undefined,
      network,
    ));
    assert.equal(met.refusal, refusal, JSON.stringify(url));
    assert.deepEqual(connections, [], url);
    for (const word of [...answers, "secret", "docker"]) assert.ok(!met.message.includes(word), met.message);
  }
  assert.ok(corpus.addresses.length > 250);
});

Deno.test("isPublic() is false within each special range, and true beside it", () => {
  for (const address of corpus.not_public) assert.ok(!isPublic(address), address);
  for (const address of corpus.public) assert.ok(isPublic(address), address);
});

Deno.test("get() checks the target of a redirect like any URL", async () => {
  const literalOrLoopback = (name: string) => /^[0-9]|:/.test(name) ? [name] : ["127.0.0.1"];
  const network = { ...INTERNET, resolve: (name: string) => Promise.resolve(literalOrLoopback(name)) };
  for (const [number, refusal] of corpus.redirects.entries()) {
    const met = await failure(get(`${host}/redirect/${number}`, namingHost(), undefined, network));
    // What no client can read as an address, the service refuses a step earlier.
    const isUnreadable = refusal === "redirect" && met.refusal === "host";
    assert.ok(met.refusal === refusal || isUnreadable, `redirect ${number}: ${met.refusal}, not ${refusal}`);
  }
});

Deno.test("get() gives up a hostile response soon", async () => {
  await Promise.all(corpus.hostile.map(async ([name, expected], number) => {
    const limits = expected === "recording_unreachable" ? { fetchSeconds: 0.5 } : {};
    const begun = performance.now();
    const met = await failure(get(`${host}/hostile/${number}`, namingHost(limits)));
    assert.equal(met.refusal ?? met.code, expected, name);
    assert.ok(performance.now() - begun < 5000, name);
  }));
});

Deno.test("get() follows three redirects and not a fourth", async () => {
  assert.equal(text.decode(await get(`${host}/3`, namingHost())), "hello");
  assert.equal((await failure(get(`${host}/4`, namingHost()))).refusal, "redirect");
});

Deno.test("get() connects to the address that was resolved, and sends the host's own name", async () => {
  const { network, connections } = rerouted([PUBLIC], corpus.secure.good!);
  for (const pattern of ["recordings.example", "*.example", "*"]) {
    const content = await get("https://Recordings.Example./a?b", rules({ fetchHosts: [pattern] }), undefined, network);
    assert.equal(text.decode(content), "hello");
  }
  assert.deepEqual(connections, Array(3).fill([PUBLIC, 443]));
});

Deno.test("get() sends no request to a host whose certificate is not valid for it", async () => {
  for (const [name, port] of Object.entries({ ...corpus.secure, "no TLS": corpus.host })) {
    if (name === "good") continue;
    const { network } = rerouted([PUBLIC], port);
    const allowed = rules({ fetchHosts: ["*"], fetchSeconds: 2 });
    const met = await failure(get("https://recordings.example/", allowed, undefined, network));
    assert.equal(met.code, "recording_unreachable");
    assert.equal(met.message.includes("invalid certificate"), name !== "no TLS", `${name}: ${met.message}`);
  }
  const { network } = rerouted([PUBLIC], corpus.secure.good!);
  const unknown = { ...network, caCerts: [] };
  const met = await failure(get("https://recordings.example/a?b", rules({ fetchHosts: ["*"] }), undefined, unknown));
  assert.ok(met.message.includes("invalid certificate"));
});

Deno.test("get() refuses a redirect from https to http", async () => {
  const { network } = rerouted([PUBLIC], corpus.secure.good!);
  const allowed = rules({ fetchHosts: ["*"], fetchAllowHttp: true });
  const met = await failure(get("https://recordings.example/down", allowed, undefined, network));
  assert.equal(met.refusal, "downgrade");
});

Deno.test("get() resolves a name once, and keeps to the first answer", async () => {
  let lookups = 0;
  const { network, connections } = rerouted(() => lookups++ === 0 ? [PUBLIC] : ["127.0.0.1"], corpus.host);
  const allowed = rules({ fetchHosts: ["*"], fetchAllowHttp: true });
  assert.equal(text.decode(await get("http://rebinding.example/hello", allowed, undefined, network)), "hello");
  assert.deepEqual([lookups, connections], [1, [[PUBLIC, 80]]]);
  lookups = 0;
  const again = get("http://rebinding.example/redirect-again", allowed, undefined, network);
  assert.equal((await failure(again)).refusal, "address");
});

Deno.test("get() tries the next address where one refuses the connection", async () => {
  const { network, connections } = rerouted(["2606:4700::1111", PUBLIC], corpus.host, ["2606:4700::1111"]);
  const allowed = rules({ fetchHosts: ["*"], fetchAllowHttp: true });
  assert.equal(text.decode(await get("http://two.example/hello", allowed, undefined, network)), "hello");
  assert.deepEqual(connections.map(([address]) => address), ["2606:4700::1111", PUBLIC]);
});

Deno.test("get() gives up a name server that hangs or fails", async () => {
  let answer: (addresses: string[]) => void = () => {};
  const hanging = () => new Promise<string[]>((resolve) => answer = resolve);
  const failing = () => Promise.reject(new Error("no such name"));
  for (const resolve of [hanging, failing, () => Promise.resolve([])]) {
    const allowed = rules({ fetchHosts: ["*"], fetchSeconds: 0.2 });
    const met = await failure(get("https://a.example/", allowed, undefined, { ...INTERNET, resolve }));
    assert.equal(met.code, "recording_unreachable");
  }
  answer([]);
});

Deno.test("get() sends credentials to their own origin, and to no other", async () => {
  const shown: Record<string, string | null> = {};
  const origins: string[] = [];
  const serve = (name: string, answer: (url: URL) => Response) =>
    Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen: ({ port }) => origins.push(`127.0.0.1:${port}`) },
      (request) => {
        shown[`${name}${new URL(request.url).pathname}`] = request.headers.get("authorization");
        return answer(new URL(request.url));
      },
    );
  const redirect = (location: string) => new Response(null, { status: 302, headers: { location } });
  await using _first = serve(
    "first",
    ({ pathname }) => pathname === "/a" ? redirect("/b") : redirect(`http://${origins[1]}/c?X-Signature=secret`),
  );
  await using _second = serve("second", ({ pathname }) => pathname === "/c" ? redirect("/d") : new Response("hello"));
  const allowed = rules({ fetchPrivateHosts: origins });
  assert.equal(text.decode(await get(`http://${origins[0]}/a`, allowed, "Bearer key")), "hello");
  assert.deepEqual(shown, { "first/a": "Bearer key", "first/b": "Bearer key", "second/c": null, "second/d": null });
});

Deno.test("get() never reached the canary, and always sent the host's name", async () => {
  const seen = JSON.parse(await program.end());
  assert.equal(seen.canary_was_reached, false);
  assert.ok(seen.names.every((name: string) => name === "recordings.example"));
  assert.ok(
    seen.requests.length === 4 &&
      seen.requests.every((request: string) => /\r\nhost: recordings\.example\r\n/i.test(request)),
  );
});
