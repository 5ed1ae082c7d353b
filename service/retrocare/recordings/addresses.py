"""Where recordings may be fetched from: parsing URLs, the allowed hosts, and which IP addresses are public.

The parser is stricter than any HTTP client's, so that no client can understand a URL in another way.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from retrocare.errors import FetchFailed
from retrocare.settings import Settings

PORTS = {"https": 443, "http": 80}

_PLAIN = re.compile(r"[!-\[\]-~]{1,8000}")  # visible ASCII without the backslash
_URL = re.compile(r"(https?)://([^/?#]*@)?(\[[^\]/?#]*\]|[^:/?#]*)(:[^/?#]*)?([/?][^#]*)?(?:#.*)?", re.IGNORECASE)
_PORT = re.compile(r":([1-9][0-9]{0,4})")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*{_LABEL}")
_NUMBER_LAST = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # some clients read these as an IPv4 address

_GLOBAL_UNICAST, _NAT64 = IPv6Network("2000::/3"), IPv6Network("64:ff9b::/96")
# IANA's special-purpose registries and one cloud's metadata; 6to4 and Teredo (in 2001::/23) can embed any address.
_NOT_PUBLIC_4 = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 "
    "192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
_NOT_PUBLIC_6 = "2001::/23 2001:db8::/32 2002::/16 3fff::/20"
_NOT_PUBLIC = [ip_network(network) for network in f"{_NOT_PUBLIC_4} {_NOT_PUBLIC_6}".split()]


@dataclass(frozen=True)
class Url:
    """The parts of an http(s) URL."""

    scheme: str
    host: str  # lower case, without a trailing dot; an IPv6 address without its brackets
    port: int
    target: str  # path and query

    @property
    def bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def with_port(self) -> str:
        return f"{self.bracketed}:{self.port}"

    @property
    def authority(self) -> str:
        return self.bracketed if self.port == PORTS[self.scheme] else self.with_port

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_url(text: str) -> Url:
    """Parse a URL.

    Raises: FetchFailed with refusal characters, scheme, credentials, host or port.
    """
    if not _PLAIN.fullmatch(text):
        raise FetchFailed("A URL is at most 8,000 visible ASCII characters, without backslash", refusal="characters")
    if not text.lower().startswith(("https://", "http://")):
        raise FetchFailed("A recording is given as an http(s) URL or as storage:bucket/path", refusal="scheme")
    found = _URL.fullmatch(text)
    scheme, credentials, host, port, target = found.groups("") if found else [""] * 5
    if credentials:
        raise FetchFailed("A recording's URL may not carry a user name or password", refusal="credentials")
    scheme, host = scheme.lower(), host.lower()
    if host.startswith("["):
        host = host[1:-1]
        is_host = _is_canonical(host, socket.AF_INET6)
    else:
        host = host.removesuffix(".")
        is_host = _is_canonical(host, socket.AF_INET) if _NUMBER_LAST.fullmatch(host) else bool(_NAME.fullmatch(host))
    if not is_host:
        raise FetchFailed("The URL's host is neither a plain name nor a plainly written IP address", refusal="host")
    number = _PORT.fullmatch(port or f":{PORTS[scheme]}")
    if not number or int(number[1]) > 65535:
        raise FetchFailed("The URL's port is none", refusal="port")
    return Url(scheme, host, int(number[1]), target if target.startswith("/") else f"/{target}")


def check_allowed(url: Url, settings: Settings, is_redirected: bool = False) -> bool:
    """Return whether the host is listed as private: then neither its scheme nor its addresses matter.

    The error does not say where a redirect led.

    Raises: FetchFailed with refusal scheme, host or port.
    """
    named = settings.private_recording_hosts
    if url.with_port in named or url.authority in named:
        return True
    is_host = any(
        pattern in ("*", url.host) or (pattern.startswith("*.") and url.host.endswith(pattern[1:]))
        for pattern in settings.recording_hosts
    )
    if url.scheme != "https" and not settings.fetch_allow_http:
        told, refusal = "Recordings are fetched over https only", "scheme"
    elif not is_host:
        told, refusal = f"Recordings are not fetched from {url.with_port}", "host"
    elif url.port != PORTS[url.scheme]:
        told, refusal = f"Recordings are not fetched from port {url.port} of {url.host}", "port"
    else:
        return False
    if is_redirected:
        raise FetchFailed("The recording's host leads to one that is not allowed", refusal=refusal)
    raise FetchFailed(told, how_to_allow(url, settings, is_host), refusal=refusal)


def how_to_allow(url: Url, settings: Settings, is_host: bool) -> str:
    """Name the setting that would allow this URL; ``is_host`` says that its host is allowed already."""
    if url.port != PORTS[url.scheme] or _is_private_name(url.host):
        return _add("RETROCARE_FETCH_PRIVATE_HOSTS", url.with_port, settings.fetch_private_hosts)
    hints = []
    if url.scheme != "https" and not settings.fetch_allow_http:
        hints.append("Give an https URL, or set RETROCARE_FETCH_ALLOW_HTTP=true.")
    if not is_host:
        hints.append(_add("RETROCARE_FETCH_HOSTS", url.host, settings.fetch_hosts))
        if settings.recording_hosts and not settings.fetch_hosts:
            hints.append("Name the host of SUPABASE_URL there as well: it is allowed only while none is named.")
    return " ".join(hints) or _add("RETROCARE_FETCH_PRIVATE_HOSTS", url.with_port, settings.fetch_private_hosts)


def _add(setting: str, host: str, already: str) -> str:
    """Say how to add a host to a setting, without repeating the hosts that it has."""
    return f"Add {host} to {setting}." if already.strip() else f"Set {setting}={host}."


def _is_private_name(host: str) -> bool:
    """Say whether the name alone shows that a host is private."""
    is_address = ":" in host or bool(_NUMBER_LAST.fullmatch(host))
    return not is_public(host) if is_address else "." not in host


def is_public(address: str) -> bool:
    """Say whether an IP address is global unicast; an IPv6 address that embeds an IPv4 one counts as that."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped or found in _NAT64:
            found = IPv4Address(int(found) & 0xFFFFFFFF)
        elif found not in _GLOBAL_UNICAST:
            return False
    return not any(found in network for network in _NOT_PUBLIC)


def _is_canonical(address: str, family: socket.AddressFamily) -> bool:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address)) == address
    except OSError:
        return False
