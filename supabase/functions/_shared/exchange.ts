/**
 * One request over one connection to one of the addresses that were checked: HTTP/1.1, spoken by hand.
 *
 * `fetch` resolves a name once more, after it was checked, and can be led elsewhere in between; neither it nor
 * `node:https` lets every runtime of edge functions say which address to take. Here the connection goes to exactly the
 * addresses that are given, while TLS and Host keep the name. What an answer must be, is held to: a length that is met,
 * chunks that end, no encoding that was not asked for.
 */
import { lookup } from "node:dns/promises";
import { authorityOf, type Url } from "./addresses.ts";
import { FetchFailure } from "./fetches.ts";
import { joined } from "./requests.ts";

/** How names become addresses, addresses connections, and which certificates are believed beside the usual ones. */
export interface Network {
  resolve(host: string): Promise<string[]>;
  connect(address: string, port: number): Promise<Deno.TcpConn>;
  readonly caCerts?: string[];
}

export const INTERNET: Network = {
  resolve: async (host) => (await lookup(host, { all: true })).map((found) => found.address),
  connect: (address, port) => Deno.connect({ hostname: address, port }),
};

export interface Question {
  readonly method: "GET" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
}

export interface Answer {
  readonly status: number;
  header(name: string): string | undefined;
  /** Read the body, once. Raises a FetchFailure. */
  body(): Promise<Uint8Array>;
}

const SILENCE_MILLISECONDS = 10_000; // the longest wait for a name, a connection, or the next bytes
const FRAMING_BYTES = 1_000_000; // headers, chunk sizes and redirects may take this much beside the body
const HEADER_BYTES = 100_000;

/** How long, and how many bytes, one fetch may still take; all its redirects together. */
export class Limits {
  readonly #end: number;
  #received = 0;

  constructor(readonly seconds: number, readonly bytes: number) {
    this.#end = performance.now() + 1000 * seconds;
  }

  /** Give up a step that takes too long; `abandon` ends it, or undoes what it yields later. */
  async within<T>(step: Promise<T>, abandon: (late: Promise<T>) => void): Promise<T> {
    const left = Math.min(this.#end - performance.now(), SILENCE_MILLISECONDS);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const isLate = Symbol();
    const late = new Promise<typeof isLate>((resolve) => timer = setTimeout(resolve, Math.max(left, 0), isLate));
    const first = await Promise.race([step, late]).finally(() => clearTimeout(timer));
    if (first !== isLate) return first as T;
    step.catch(() => {});
    abandon(step);
    throw unreachable(`the recording did not arrive within ${this.seconds} s`);
  }

  count(received: number): void {
    this.#received += received;
    if (this.#received > this.bytes + FRAMING_BYTES) throw tooLarge(this.bytes);
  }
}

export async function resolve(host: string, limits: Limits, network: Network): Promise<string[]> {
  const asked = isLiteral(host) ? Promise.resolve([host]) : network.resolve(host).catch(() => []);
  const found = [...new Set(await limits.within(asked, () => {}))];
  if (found.length === 0) throw unreachable("it has no address");
  return found;
}

/** Ask, and use the answer before the connection is closed. Raises a FetchFailure, whatever breaks. */
export async function exchange<T>(
  url: Url,
  addresses: readonly string[],
  question: Question,
  limits: Limits,
  network: Network,
  use: (answer: Answer) => Promise<T>,
): Promise<T> {
  const request = written(url, question);
  const connection = await connected(url, addresses, limits, network);
  try {
    for (let sent = 0; sent < request.byteLength;) {
      sent += await limits.within(connection.write(request.subarray(sent)), () => close(connection));
    }
    return await use(await answerOf(new Incoming(connection, limits), limits));
  } catch (error) {
    throw error instanceof FetchFailure ? error : unreachable("the connection broke");
  } finally {
    close(connection);
  }
}

function written(url: Url, question: Question): Uint8Array {
  const headers = {
    host: authorityOf(url),
    "user-agent": "retrocare-voice",
    accept: "*/*",
    "accept-encoding": "identity",
    connection: "close",
    ...question.headers,
    ...(question.body ? { "content-length": String(question.body.byteLength) } : {}),
  };
  const lines = Object.entries(headers).map(([name, value]) => {
    // deno-lint-ignore no-control-regex -- that is what must not be in a header
    if (/[\0-\x1f\x7f-\uffff]/.test(value)) throw unreachable(`the header ${name} cannot be sent`);
    return `${name}: ${value}\r\n`;
  });
  const head = new TextEncoder().encode(`${question.method} ${url.target} HTTP/1.1\r\n${lines.join("")}\r\n`);
  return question.body ? joined([head, question.body], head.byteLength + question.body.byteLength) : head;
}

async function connected(
  url: Url,
  addresses: readonly string[],
  limits: Limits,
  network: Network,
): Promise<Deno.Conn> {
  const abandon = (late: Promise<Deno.Conn>) => void late.then(close, () => {});
  let plain: Deno.TcpConn | undefined;
  for (const address of addresses) {
    try {
      plain = await limits.within(network.connect(address, url.port), abandon);
      break;
    } catch (error) {
      if (error instanceof FetchFailure) throw error;
    }
  }
  if (!plain) throw unreachable("no connection");
  if (url.scheme === "http") return plain;
  let secure: Deno.TlsConn | undefined;
  try {
    const started = Deno.startTls(plain, {
      hostname: url.host,
      alpnProtocols: ["http/1.1"],
      ...(network.caCerts ? { caCerts: network.caCerts } : {}),
    });
    secure = await limits.within(started, abandon);
    const tls = secure;
    await limits.within(tls.handshake(), () => close(tls));
    return tls;
  } catch (error) {
    if (secure) close(secure);
    if (error instanceof FetchFailure) throw error;
    throw unreachable(/certificate/i.test(String(error)) ? "invalid certificate" : "no TLS");
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It is closed already.
  }
}

async function answerOf(incoming: Incoming, limits: Limits): Promise<Answer> {
  let status: number, headers: Map<string, string[]>;
  do {
    const line = await incoming.line();
    const found = /^HTTP\/1\.[01] ([1-5][0-9]{2})(?: .*)?$/.exec(line);
    if (!found) throw unreachable("its answer is not HTTP");
    status = Number(found[1]);
    headers = await headersOf(incoming);
  } while (status >= 100 && status < 200 && status !== 101);
  return {
    status,
    header: (name) => headers.get(name)?.[0],
    body: () => bodyOf(incoming, status, headers, limits),
  };
}

async function headersOf(incoming: Incoming): Promise<Map<string, string[]>> {
  const headers = new Map<string, string[]>();
  for (let size = 0, line = await incoming.line(); line !== ""; line = await incoming.line()) {
    size += line.length;
    const found = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r]*?)[ \t]*$/.exec(line);
    if (!found || size > HEADER_BYTES) throw unreachable("its headers are none");
    const [, name = "", value = ""] = found;
    headers.set(name.toLowerCase(), [...headers.get(name.toLowerCase()) ?? [], value]);
  }
  return headers;
}

async function bodyOf(
  incoming: Incoming,
  status: number,
  headers: Map<string, string[]>,
  limits: Limits,
): Promise<Uint8Array> {
  const listed = (name: string) =>
    (headers.get(name) ?? []).flatMap((value) => value.split(",")).map((one) => one.trim());
  if (listed("content-encoding").some((encoding) => encoding.toLowerCase() !== "identity")) {
    throw new FetchFailure("recording_refused", "The recording came compressed, which was not asked for.", {
      refusal: "encoding",
    });
  }
  if (status === 101 || status === 204 || status === 304) return new Uint8Array();
  const codings = listed("transfer-encoding");
  const [length, another] = new Set(listed("content-length"));
  if (codings.length > 0) {
    if (codings.join().toLowerCase() !== "chunked" || length !== undefined) throw unreachable("its framing is unknown");
    return await chunked(incoming, limits);
  }
  if (length === undefined) return await untilClosed(incoming, limits);
  if (another !== undefined || !/^[0-9]{1,15}$/.test(length)) throw unreachable("its length is none");
  if (Number(length) > limits.bytes) throw tooLarge(limits.bytes);
  return await incoming.exactly(Number(length));
}

async function chunked(incoming: Incoming, limits: Limits): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  while (true) {
    const size = /^([0-9a-f]{1,8})[ \t]*(?:;.*)?$/i.exec(await incoming.line())?.[1];
    if (size === undefined) throw unreachable("a chunk's size is none");
    if (/^0+$/.test(size)) break;
    length += parseInt(size, 16);
    if (length > limits.bytes) throw tooLarge(limits.bytes);
    chunks.push(await incoming.exactly(parseInt(size, 16)));
    if (await incoming.line() !== "") throw unreachable("a chunk ends elsewhere");
  }
  await headersOf(incoming);
  return joined(chunks, length);
}

async function untilClosed(incoming: Incoming, limits: Limits): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (let more = await incoming.some(); more; more = await incoming.some()) {
    chunks.push(more);
    length += more.byteLength;
    if (length > limits.bytes) throw tooLarge(limits.bytes);
  }
  return joined(chunks, length);
}

/** The bytes of a connection, by the line and by the length. */
class Incoming {
  #rest = new Uint8Array();
  readonly #buffer = new Uint8Array(65_536);

  constructor(readonly connection: Deno.Conn, readonly limits: Limits) {}

  /** Give what has come, at least a byte; nothing at the end. */
  async some(): Promise<Uint8Array | undefined> {
    if (this.#rest.byteLength > 0) {
      const rest = this.#rest;
      this.#rest = new Uint8Array();
      return rest;
    }
    const received = await this.limits.within(this.connection.read(this.#buffer), () => close(this.connection));
    this.limits.count(received ?? 0);
    return received ? this.#buffer.slice(0, received) : undefined;
  }

  /** Give a line of ASCII (other bytes stand for themselves), without its end. */
  async line(): Promise<string> {
    let line = "";
    while (true) {
      const more = await this.some();
      if (!more) throw unreachable("its answer is cut off");
      const end = more.indexOf(0x0a);
      line += String.fromCharCode(...more.subarray(0, end < 0 ? undefined : end).subarray(0, HEADER_BYTES));
      if (line.length > HEADER_BYTES) throw unreachable("a line has no end");
      if (end >= 0) {
        this.#rest = more.slice(end + 1);
        return line.replace(/\r$/, "");
      }
    }
  }

  /** Give exactly so many bytes, read to where they are needed: large recordings are in memory once. */
  async exactly(length: number): Promise<Uint8Array> {
    const whole = new Uint8Array(length);
    const held = this.#rest.subarray(0, length);
    whole.set(held);
    this.#rest = this.#rest.subarray(held.byteLength);
    for (let at = held.byteLength; at < length;) {
      const received = await this.limits.within(
        this.connection.read(whole.subarray(at)),
        () => close(this.connection),
      );
      if (!received) throw unreachable("the recording is shorter than its length");
      this.limits.count(received);
      at += received;
    }
    return whole;
  }
}

function isLiteral(host: string): boolean {
  return host.includes(":") || /^[0-9.]+$/.test(host);
}

function unreachable(why: string): FetchFailure {
  return new FetchFailure("recording_unreachable", `The recording's host did not answer: ${why}.`);
}

function tooLarge(most: number): FetchFailure {
  return new FetchFailure("recording_too_large", `The recording is larger than ${most} bytes.`);
}
