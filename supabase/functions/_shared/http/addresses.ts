/**
 * What may be fetched: how a URL is parsed, which hosts are allowed, and which IP addresses are public.
 *
 * The rules are those of the service's `addresses.py`. A URL is parsed more strictly than any client would, so that no
 * client can read it differently.
 */
import { FetchFailure } from "./fetch_failure.ts";

export interface Url {
  readonly scheme: "https" | "http";
  /** Lower case, without a trailing dot; an IPv6 address without its brackets. */
  readonly host: string;
  readonly port: number;
  /** Path and query. */
  readonly target: string;
}

export interface AllowedHosts {
  /** Names, `*.example.org` for all below it, `*` for every public host. */
  readonly fetchHosts: readonly string[];
  /** `host` or `host:port`: allowed, and may be private, without TLS and at that port. */
  readonly fetchPrivateHosts: readonly string[];
  readonly fetchAllowHttp: boolean;
}

const PORTS = { https: 443, http: 80 };
const PLAIN = /^[!-[\]-~]{1,8000}$/; // visible ASCII without the backslash
const PARTS = /^(https?):\/\/([^/?#]*@)?(\[[^\]/?#]*\]|[^:/?#]*)(:[^/?#]*)?([/?][^#]*)?(?:#.*)?$/i;
const LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?";
const NAME = new RegExp(`^(?=.{1,253}$)(?:${LABEL}\\.)*${LABEL}$`);
const NUMBER_LAST = /^(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)$/; // what some clients take for an IPv4 address
const BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const IPV4 = new RegExp(`^${BYTE}(?:\\.${BYTE}){3}$`);

/** Parse a URL. Raises a FetchFailure with the refusal characters, scheme, credentials, host or port. */
export function parseUrl(text: string): Url {
  if (!PLAIN.test(text)) {
    throw refused("characters", "A URL is at most 8,000 visible ASCII characters, without backslash.");
  }
  if (!/^https?:\/\//i.test(text)) throw refused("scheme", "A recording has an http(s) address.");
  const [, scheme = "", credentials, authority = "", portText, path = ""] = PARTS.exec(text) ?? [];
  if (credentials) throw refused("credentials", "A recording's address may not carry a user name or password.");
  const host = plainHost(authority.toLowerCase());
  if (host === undefined) throw refused("host", "The host is neither a plain name nor a plainly written IP address.");
  const known = scheme.toLowerCase() as Url["scheme"];
  const port = portText === undefined ? PORTS[known] : Number(/^:([1-9][0-9]{0,4})$/.exec(portText)?.[1]);
  if (!(port <= 65535)) throw refused("port", "The port is not a number from 1 to 65535.");
  return { scheme: known, host, port, target: path.startsWith("/") ? path : `/${path}` };
}

/** The value of a Host header: the name, or the address (IPv6 in brackets), and the port unless it is the default. */
export function authorityOf(url: Url): string {
  return url.port === PORTS[url.scheme] ? bracketed(url) : `${bracketed(url)}:${url.port}`;
}

export function originOf(url: Url): string {
  return `${url.scheme}://${authorityOf(url)}`;
}

/** The URL that a `Location` leads to. Raises a FetchFailure: redirect, downgrade, or a refusal of `parseUrl`. */
export function redirectedUrl(from: Url, location: string): Url {
  if (/[^ -~]/.test(location)) throw refused("redirect", "The redirect's Location is not a URL.");
  const found = parseUrl(resolved(from, location));
  if (from.scheme === "https" && found.scheme === "http") {
    throw refused("downgrade", "A redirect leads from https to http.");
  }
  return found;
}

/**
 * Say whether the host is allowed as a private one, so that neither scheme nor addresses matter. Raises a FetchFailure.
 */
export function checkAllowed(url: Url, allowed: AllowedHosts): boolean {
  if ([`${bracketed(url)}:${url.port}`, authorityOf(url)].some((named) => allowed.fetchPrivateHosts.includes(named))) {
    return true;
  }
  if (url.scheme !== "https" && !allowed.fetchAllowHttp) {
    throw refused("scheme", "Recordings are fetched over https only.");
  }
  const isNamed = allowed.fetchHosts.some((pattern) =>
    pattern === "*" || pattern === url.host || (pattern.startsWith("*.") && url.host.endsWith(pattern.slice(1)))
  );
  if (!isNamed) throw refused("host", "That host is not in RETROCARE_FETCH_HOSTS.");
  if (url.port !== PORTS[url.scheme]) throw refused("port", "Recordings are not fetched from that port.");
  return false;
}

/** Say whether an IP address is global unicast; an IPv6 address that embeds an IPv4 address is judged as that one. */
export function isPublic(address: string): boolean {
  if (IPV4.test(address)) return !isWithin(ipv4(address), 32, NOT_PUBLIC_4);
  const found = ipv6(address);
  if (found === undefined) return false;
  if (isWithin(found, 128, EMBEDS_IPV4)) return !isWithin(found & 0xffffffffn, 32, NOT_PUBLIC_4);
  return isWithin(found, 128, GLOBAL_UNICAST) && !isWithin(found, 128, NOT_PUBLIC_6);
}

type Network = readonly [start: bigint, prefix: number];

// IANA's special-purpose registries and one cloud's metadata; 6to4 and Teredo (in 2001::/23) lead anywhere.
const NOT_PUBLIC_4 = ("0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 " +
  "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 " +
  "240.0.0.0/4").split(" ").map(network);
const NOT_PUBLIC_6 = "2001::/23 2001:db8::/32 2002::/16 3fff::/20".split(" ").map(network);
const GLOBAL_UNICAST = [network("2000::/3")];
const EMBEDS_IPV4 = "::ffff:0:0/96 64:ff9b::/96".split(" ").map(network);

function network(text: string): Network {
  const [address = "", prefix] = text.split("/");
  return [IPV4.test(address) ? ipv4(address) : ipv6(address)!, Number(prefix)];
}

function isWithin(address: bigint, bits: number, networks: readonly Network[]): boolean {
  return networks.some(([start, prefix]) => (address ^ start) >> BigInt(bits - prefix) === 0n);
}

function ipv4(address: string): bigint {
  return address.split(".").reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

/** Undefined for text that is no IPv6 address, and for an address with a zone. */
function ipv6(address: string): bigint | undefined {
  const tail = /^(.*:)([0-9.]+)$/.exec(address);
  if (tail?.[2]?.includes(".")) {
    if (!IPV4.test(tail[2])) return undefined;
    const last = ipv4(tail[2]);
    return ipv6(`${tail[1]}${(last >> 16n).toString(16)}:${(last & 0xffffn).toString(16)}`);
  }
  const halves = address.split("::");
  const groups = halves.map((half) => (half === "" ? [] : half.split(":")));
  const [before = [], after = []] = groups;
  const missing = 8 - before.length - after.length;
  if (halves.length > 2 || (halves.length === 2 ? missing < 1 : missing !== 0)) return undefined;
  const all = [...before, ...Array(missing).fill("0"), ...after];
  if (!all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return undefined;
  return all.reduce((sum, group) => (sum << 16n) | BigInt(`0x${group}`), 0n);
}

/** The host; undefined where it is written in a way that clients read differently. */
function plainHost(authority: string): string | undefined {
  if (authority.startsWith("[")) {
    const address = authority.slice(1, -1);
    return ipv6(address) !== undefined && isCanonical(address) ? address : undefined;
  }
  const name = authority.replace(/\.$/, "");
  const isHost = NUMBER_LAST.test(name) ? IPV4.test(name) : NAME.test(name);
  return isHost ? name : undefined;
}

/** Say whether an address is written as `inet_ntop` writes it, which ends in a dotted IPv4 address if it embeds one. */
function isCanonical(address: string): boolean {
  const hex = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const last = /^::(ffff:)?([0-9a-f]+):([0-9a-f]+)$/.exec(hex);
  if (!last) return address === hex;
  const bytes = [last[2], last[3]].flatMap((group) => [parseInt(group!, 16) >> 8, parseInt(group!, 16) & 0xff]);
  return address === `::${last[1] ?? ""}${bytes.join(".")}`;
}

function bracketed(url: Url): string {
  return url.host.includes(":") ? `[${url.host}]` : url.host;
}

/** A Location against the URL it came from, before `parseUrl` validates the result. */
function resolved(from: Url, location: string): string {
  if (/^[a-z][a-z0-9+.-]*:/i.test(location)) return location;
  if (location.startsWith("//")) return `${from.scheme}:${location}`;
  const [path = "/", query] = from.target.split(/(?=\?)/, 2);
  const target = location.startsWith("/")
    ? location
    : /^[?#]/.test(location) || location === ""
    ? path + (location.startsWith("?") ? location : (query ?? "") + location)
    : path.replace(/[^/]*$/, "") + location;
  return originOf(from) + target;
}

function refused(refusal: string, message: string): FetchFailure {
  return new FetchFailure("recording_refused", message, { refusal });
}
