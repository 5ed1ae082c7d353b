/**
 * An HTTP/1.1 client pinned to IP addresses that were checked: one request over one connection.
 *
 * `fetch` resolves a name again after it was checked, and may then connect to another address; neither it nor
 * `node:https` lets a program choose the address in every runtime of edge functions. This client connects to exactly
 * the addresses that it is given, while TLS and the Host header keep the name. It is strict about responses: the body
 * has the announced length, chunks end, and nothing is compressed.
 */
import { lookup } from "node:dns/promises";
import { authorityOf, type Url } from "./addresses.ts";
import { FetchFailure } from "./fetch_failure.ts";
import { joined } from "./requests.ts";

/** How names are resolved and connections made, and which certificate authorities are trusted beside the usual ones. */
export interface Network {
  resolve(host: string): Promise<string[]>;
  connect(address: string, port: number): Promise<Deno.TcpConn>;
  readonly caCerts?: string[];
}

export const INTERNET: Network = {
  resolve: async (host) => (await lookup(host, { all: true })).map((found) => found.address),
  connect: (address, port) => Deno.connect({ hostname: address, port }),
};

export interface PinnedRequest {
  readonly method: "GET" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
}

export interface PinnedResponse {
  readonly status: number;
  header(name: string): string | undefined;
  /** Read the body, once. Raises a FetchFailure. */
  body(): Promise<Uint8Array>;
}

const SILENCE_MILLISECONDS = 10_000; // the longest wait for a name, a connection or the next bytes
const FRAMING_BYTES = 1_000_000; // headers, chunk sizes and redirects may take this much beside the body
const HEADER_BYTES = 100_000;

/** How much longer one fetch may take, and how many more bytes; its redirects included. */
export class FetchBudget {
  readonly #end: number;
  #received = 0;

  constructor(readonly seconds: number, readonly bytes: number) {
    this.#end = performance.now() + 1000 * seconds;
  }

  /** Wait for a step while there is time; `cancel` ends a late one, or undoes what it yields later. */
  async within<T>(step: Promise<T>, cancel: (late: Promise<T>) => void): Promise<T> {
    const left = Math.min(this.#end - performance.now(), SILENCE_MILLISECONDS);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const isLate = Symbol();
    const late = new Promise<typeof isLate>((resolve) => timer = setTimeout(resolve, Math.max(left, 0), isLate));
    const first = await Promise.race([step, late]).finally(() => clearTimeout(timer));
    if (first !== isLate) return first as T;
    step.catch(() => {});
    cancel(step);
    throw unreachable(`the recording did not arrive within ${this.seconds} s`);
  }

  count(received: number): void {
    this.#received += received;
    if (this.#received > this.bytes + FRAMING_BYTES) throw tooLarge(this.bytes);
  }
}

export async function resolve(host: string, budget: FetchBudget, network: Network): Promise<string[]> {
  const resolved = isLiteral(host) ? Promise.resolve([host]) : network.resolve(host).catch(() => []);
  const found = [...new Set(await budget.within(resolved, () => {}))];
  if (found.length === 0) throw unreachable("its name has no address");
  return found;
}

/** Send a request, and use its response before the connection is closed. Raises a FetchFailure for any failure. */
export async function sendPinned<T>(
  url: Url,
  addresses: readonly string[],
  request: PinnedRequest,
  budget: FetchBudget,
  network: Network,
  use: (response: PinnedResponse) => Promise<T>,
): Promise<T> {
  const bytes = encoded(url, request);
  const connection = await connected(url, addresses, budget, network);
  try {
    for (let sent = 0; sent < bytes.byteLength;) {
      sent += await budget.within(connection.write(bytes.subarray(sent)), () => close(connection));
    }
    return await use(await readResponse(new ConnectionReader(connection, budget), budget));
  } catch (error) {
    throw error instanceof FetchFailure ? error : unreachable("the connection broke");
  } finally {
    close(connection);
  }
}

function encoded(url: Url, request: PinnedRequest): Uint8Array {
  const headers = {
    host: authorityOf(url),
    "user-agent": "retrocare-voice",
    accept: "*/*",
    "accept-encoding": "identity",
    connection: "close",
    ...request.headers,
    ...(request.body ? { "content-length": String(request.body.byteLength) } : {}),
  };
  const lines = Object.entries(headers).map(([name, value]) => {
    // deno-lint-ignore no-control-regex -- control characters are what must not be in a header
    if (/[\0-\x1f\x7f-\uffff]/.test(value)) throw unreachable(`the header ${name} cannot be sent`);
    return `${name}: ${value}\r\n`;
  });
  const head = new TextEncoder().encode(`${request.method} ${url.target} HTTP/1.1\r\n${lines.join("")}\r\n`);
  return request.body ? joined([head, request.body], head.byteLength + request.body.byteLength) : head;
}

async function connected(
  url: Url,
  addresses: readonly string[],
  budget: FetchBudget,
  network: Network,
): Promise<Deno.Conn> {
  const cancel = (late: Promise<Deno.Conn>) => void late.then(close, () => {});
  let plain: Deno.TcpConn | undefined;
  for (const address of addresses) {
    try {
      plain = await budget.within(network.connect(address, url.port), cancel);
      break;
    } catch (error) {
      if (error instanceof FetchFailure) throw error;
    }
  }
  if (!plain) throw unreachable("no connection could be made");
  if (url.scheme === "http") return plain;
  let secure: Deno.TlsConn | undefined;
  try {
    const started = Deno.startTls(plain, {
      hostname: url.host,
      alpnProtocols: ["http/1.1"],
      ...(network.caCerts ? { caCerts: network.caCerts } : {}),
    });
    secure = await budget.within(started, cancel);
    const tls = secure;
    await budget.within(tls.handshake(), () => close(tls));
    return tls;
  } catch (error) {
    if (secure) close(secure);
    if (error instanceof FetchFailure) throw error;
    throw unreachable(/certificate/i.test(String(error)) ? "invalid certificate" : "TLS failed");
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It is closed already.
  }
}

async function readResponse(reader: ConnectionReader, budget: FetchBudget): Promise<PinnedResponse> {
  let status: number, headers: Map<string, string[]>;
  do {
    const line = await reader.line();
    const found = /^HTTP\/1\.[01] ([1-5][0-9]{2})(?: .*)?$/.exec(line);
    if (!found) throw unreachable("its response is not HTTP");
    status = Number(found[1]);
    headers = await headersOf(reader);
  } while (status >= 100 && status < 200 && status !== 101);
  return { status, header: (name) => headers.get(name)?.[0], body: () => bodyOf(reader, status, headers, budget) };
}

async function headersOf(reader: ConnectionReader): Promise<Map<string, string[]>> {
  const headers = new Map<string, string[]>();
  for (let size = 0, line = await reader.line(); line !== ""; line = await reader.line()) {
    size += line.length;
    const found = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\0\r]*?)[ \t]*$/.exec(line);
    if (!found || size > HEADER_BYTES) throw unreachable("its headers are malformed");
    const [, name = "", value = ""] = found;
    headers.set(name.toLowerCase(), [...headers.get(name.toLowerCase()) ?? [], value]);
  }
  return headers;
}

async function bodyOf(
  reader: ConnectionReader,
  status: number,
  headers: Map<string, string[]>,
  budget: FetchBudget,
): Promise<Uint8Array> {
  const listed = (name: string) =>
    (headers.get(name) ?? []).flatMap((value) => value.split(",")).map((one) => one.trim());
  if (listed("content-encoding").some((encoding) => encoding.toLowerCase() !== "identity")) {
    throw new FetchFailure(
      "recording_refused",
      "The recording came compressed, although identity encoding was requested.",
      { refusal: "encoding" },
    );
  }
  if (status === 101 || status === 204 || status === 304) return new Uint8Array();
  const codings = listed("transfer-encoding");
  const [length, another] = new Set(listed("content-length"));
  if (codings.length > 0) {
    if (codings.join().toLowerCase() !== "chunked" || length !== undefined) {
      throw unreachable("the body's framing is not supported");
    }
    return await chunked(reader, budget);
  }
  if (length === undefined) return await untilClosed(reader, budget);
  if (another !== undefined || !/^[0-9]{1,15}$/.test(length)) throw unreachable("its Content-Length is malformed");
  if (Number(length) > budget.bytes) throw tooLarge(budget.bytes);
  return await reader.exactly(Number(length));
}

async function chunked(reader: ConnectionReader, budget: FetchBudget): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  while (true) {
    const size = /^([0-9a-f]{1,8})[ \t]*(?:;.*)?$/i.exec(await reader.line())?.[1];
    if (size === undefined) throw unreachable("a chunk's size is malformed");
    if (/^0+$/.test(size)) break;
    length += parseInt(size, 16);
    if (length > budget.bytes) throw tooLarge(budget.bytes);
    chunks.push(await reader.exactly(parseInt(size, 16)));
    if (await reader.line() !== "") throw unreachable("a chunk is longer than its size");
  }
  await headersOf(reader);
  return joined(chunks, length);
}

async function untilClosed(reader: ConnectionReader, budget: FetchBudget): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (let more = await reader.some(); more; more = await reader.some()) {
    chunks.push(more);
    length += more.byteLength;
    if (length > budget.bytes) throw tooLarge(budget.bytes);
  }
  return joined(chunks, length);
}

/** Reads a connection by lines and by lengths. */
class ConnectionReader {
  #rest = new Uint8Array();
  readonly #buffer = new Uint8Array(65_536);

  constructor(readonly connection: Deno.Conn, readonly budget: FetchBudget) {}

  /** Return the next bytes, at least one; undefined at the end. */
  async some(): Promise<Uint8Array | undefined> {
    if (this.#rest.byteLength > 0) {
      const rest = this.#rest;
      this.#rest = new Uint8Array();
      return rest;
    }
    const received = await this.budget.within(this.connection.read(this.#buffer), () => close(this.connection));
    this.budget.count(received ?? 0);
    return received ? this.#buffer.slice(0, received) : undefined;
  }

  /** Return the next line as Latin-1, without its line break. */
  async line(): Promise<string> {
    let line = "";
    while (true) {
      const more = await this.some();
      if (!more) throw unreachable("its response is cut off");
      const end = more.indexOf(0x0a);
      line += String.fromCharCode(...more.subarray(0, end < 0 ? undefined : end).subarray(0, HEADER_BYTES));
      if (line.length > HEADER_BYTES) throw unreachable("a line has no end");
      if (end >= 0) {
        this.#rest = more.slice(end + 1);
        return line.replace(/\r$/, "");
      }
    }
  }

  /** Return exactly `length` bytes, read into one buffer: a large recording is in memory once. */
  async exactly(length: number): Promise<Uint8Array> {
    const whole = new Uint8Array(length);
    const held = this.#rest.subarray(0, length);
    whole.set(held);
    this.#rest = this.#rest.subarray(held.byteLength);
    for (let at = held.byteLength; at < length;) {
      const received = await this.budget.within(this.connection.read(whole.subarray(at)), () => close(this.connection));
      if (!received) throw unreachable("the recording is shorter than its length");
      this.budget.count(received);
      at += received;
    }
    return whole;
  }
}

function isLiteral(host: string): boolean {
  return host.includes(":") || /^[0-9.]+$/.test(host);
}

function unreachable(reason: string): FetchFailure {
  return new FetchFailure("recording_unreachable", `The recording's host did not answer: ${reason}.`);
}

function tooLarge(most: number): FetchFailure {
  return new FetchFailure("recording_too_large", `The recording is larger than ${most} bytes.`);
}
