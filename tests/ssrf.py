"""What the internet does to have fetched what must not be: addresses, name servers, redirects and hosts, one case each.

A case says how it is refused: by the ``refusal`` of the guard, or by the error's code where it was tried and failed.
"""

from __future__ import annotations

import gzip
import socket
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

PUBLIC, PUBLIC_6 = "93.184.216.34", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
MAXIMUM_BYTES = 50_000

Behaviour = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Case:
    """A URL, what the name server says of its host, the settings it meets, and how it is refused."""

    url: str
    refusal: str
    answers: tuple[str, ...] = (PUBLIC,)
    settings: Mapping[str, object] = field(default_factory=lambda: {"fetch_hosts": "*", "fetch_allow_http": True})


def _cases(refusal: str, urls: str | list[str]) -> list[Case]:
    return [Case(url, refusal) for url in (urls.split() if isinstance(urls, str) else urls)]


OTHER_SCHEMES = """
    file:///etc/passwd file://localhost/etc/passwd file:/etc/passwd FILE:///etc/passwd gopher://127.0.0.1:6379/_INFO
    ftp://allowed.example/a.wav dict://127.0.0.1:11211/stat ldap://127.0.0.1/ tftp://127.0.0.1/a sftp://127.0.0.1/a
    data:audio/wav;base64,UklGRg== data://text/plain,x jar:https://allowed.example!/a javascript:alert(1)
    blob:https://allowed.example/a ws://allowed.example/ wss://allowed.example/ view-source:https://allowed.example/
    http+unix://%2Fvar%2Frun%2Fdocker.sock/info unix:/var/run/docker.sock unix:///var/run/docker.sock php://input
    //allowed.example/a /etc/passwd allowed.example/a https:allowed.example/a https:/allowed.example/a :// httpss://a.example/
"""
CREDENTIALS = """
    https://user@allowed.example/ https://user:secret@allowed.example/ https://allowed.example@127.0.0.1/
    https://allowed.example:443@127.0.0.1/ https://@allowed.example/ https://:@allowed.example/ https://a@b@allowed.example/
    https://allowed.example%2f@127.0.0.1/ https://127.0.0.1:80@allowed.example/ https://[::1]@allowed.example/
"""
CHARACTERS = [
    "",
    " https://allowed.example/",
    "https://allowed.example/a b",
    "https://allowed.example/\n",
    "https://allowed.example/a\r\nHost: 127.0.0.1\r\n\r\nGET /admin HTTP/1.1",
    "https://allowed.example\r\n@127.0.0.1/",
    "https://allowed.ex\tample/",
    "ht\ntps://allowed.example/",
    "https://allowed.example\0.evil.example/",
    "https://allowed.example/\x7f",
    "https://evil.example\\@allowed.example/",
    "https://allowed.example\\.evil.example/",
    "https:\\\\127.0.0.1\\",
    "https://127。0。0。1/",  # ideographic full stops
    "https://１２７.0.0.1/",  # noqa: RUF001  # full-width digits
    "https://①②⑦.0.0.1/",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "https://münchen.example/",
    "https://allowed\u00ad.example/",  # soft hyphen
    "https://allowed\u200b.example/",  # zero-width space
    "https://\u202eelpmaxe.dewolla/",  # right to left
    "https://allowed.example/ä",
    "https://allowed.example/\ud800",
    "https://allowed.example/" + "a" * 8_000,
]
HOSTS = """
    https:// https:/// https://? https://# https://. https://.. https://allowed..example/ https://.allowed.example/
    https://allowed.example../ https://-allowed.example/ https://allowed-.example/ https://allowed.example%00.evil.example/
    https://%31%32%37.0.0.1/ https://127%2e0%2e0%2e1/ https://%6c%6f%63%61%6c%68%6f%73%74/ https://allowed.example%2f/
    https://0177.0.0.1/ https://0177.0.0.01/ https://127.0.0.01/ https://00000127.0.0.1/ https://0x7f.0.0.1/
    https://0x7F000001/ https://0x7f.1/ https://127.0.0.0x1/ https://0x/ https://2130706433/ https://017700000001/
    https://127.1/ https://127.0.1/ https://0/ https://127.0.0.1../ https://256.256.256.256/ https://1.2.3.4.5/
    https://127.0.0.1.0x/ https://4294967297/ https://[127.0.0.1]/ https://[::1/ https://::1/ https://[]/ https://[::]1/
    https://[::1]evil.example/ https://[::1].evil.example/ https://[0:0:0:0:0:0:0:1]/ https://[::0001]/ https://[::ffff:7f00:1]/
    https://[0000::1]/ https://[::1%25lo]/ https://[fe80::1%25eth0]/ https://[fe80::1%eth0]/ https://[v1.a]/ https://[::127.1]/
    https://allowed.example,evil.example/ https://allowed.example;a/ https://*.example/ https://allowed.example!/
    https://allowed.example&evil.example/ https://(allowed.example)/ https://"allowed.example"/ https://<allowed.example>/
"""
LONG_HOSTS = [f"https://{'a' * 64}.example/", f"https://{'a.' * 130}example/"]
NO_PORTS = """
    https://allowed.example:0/ https://allowed.example:/ https://allowed.example:00443/ https://allowed.example:65536/
    https://allowed.example:99999/ https://allowed.example:-1/ https://allowed.example:+443/ https://allowed.example:4_43/
    https://allowed.example:0x1bb/ https://allowed.example:443:80/ https://allowed.example:443a/ http://unix:/run/docker.sock
"""
OTHER_PORTS = """
    https://allowed.example:80/ https://allowed.example:8443/ https://allowed.example:22/ https://allowed.example:6379/
    https://allowed.example:5432/ http://allowed.example:443/ http://allowed.example:8080/ http://127.0.0.1:8000/
    https://[2606:4700::1111]:11211/ https://allowed.example.:8443/
"""
NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.0.0.53
    127.255.255.254 168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1
    224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1
    ::ffff:169.254.169.254 ::ffff:100.64.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::a00:1 64:ff9b:1::7f00:1
    64:ff9b:1::808:808 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:db8::1
    2002:7f00:1:: 2002:a00:1::1 2002:808:808::1 3fff::1 4000::1 5f00::1 fc00::1 fd00:ec2::254 fd12:3456::1 fe80::1
    fe80::a9fe:a9fe fec0::1 ff02::1 ff0e::1
"""
EDGES_OF_PUBLIC = """
    1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15 169.253.255.255
    172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 8.8.8.8
    2001:200::1 2003::1 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::808:808
"""
NAMES = [
    Case("https://localhost/", "address", ("127.0.0.1", "::1")),
    Case("https://localhost./", "address", ("127.0.0.1",)),
    Case("https://127.0.0.1.nip.io/", "address", ("127.0.0.1",)),
    Case("https://metadata.google.internal/", "address", ("169.254.169.254",)),
    Case("https://127.0.0.1./", "address", ("127.0.0.1",)),
    Case("HTTPS://LOCALHOST/", "address", ("127.0.0.1",)),
    Case("https://mixed.example/", "address", (PUBLIC, "127.0.0.1")),
    Case("https://mixed.example/", "address", (PUBLIC, PUBLIC_6, "10.0.0.1")),
    Case("https://mixed.example/", "address", (PUBLIC_6, "::1")),
    Case("https://mixed.example/", "address", ("::ffff:127.0.0.1", PUBLIC)),
    Case("https://mixed.example/", "address", (PUBLIC, "fe80::1%lo")),
    Case("https://odd.example/", "address", ("127.1",)),
    Case("https://odd.example/", "address", ("/var/run/docker.sock",)),
]
_ONE, _BELOW = {"fetch_hosts": "allowed.example"}, {"fetch_hosts": "*.allowed.example"}
NOT_ALLOWED = [
    Case("https://evil.example/", "host", settings=_ONE),
    Case("https://allowed.example.evil.example/", "host", settings=_ONE),
    Case("https://evilallowed.example/", "host", settings=_ONE),
    Case("https://sub.allowed.example/", "host", settings=_ONE),
    Case("https://93.184.216.34/", "host", settings=_ONE),
    Case("https://evil.example/?https://allowed.example/", "host", settings=_ONE),
    Case("https://evil.example/#@allowed.example/", "host", settings=_ONE),
    Case("https://evil.example#allowed.example/", "host", settings=_ONE),
    Case("https://allowed.example/", "host", settings=_BELOW),
    Case("https://evilallowed.example/", "host", settings=_BELOW),
    Case("https://a.allowed.example.evil.example/", "host", settings=_BELOW),
    Case("https://allowed.example/", "host", settings={"fetch_private_hosts": "*, *.example"}),
    Case("https://allowed.example/", "host", settings={}),
    Case("https://other.supabase.co/", "host", settings={"supabase_url": "https://project.supabase.co"}),
    Case("http://allowed.example/", "scheme", settings=_ONE),
    Case("http://127.0.0.1/", "scheme", settings=_ONE),
    Case("http://private.example:81/", "scheme", settings=_ONE | {"fetch_private_hosts": "private.example"}),
    Case("https://private.example:80/", "host", settings=_ONE | {"fetch_private_hosts": "private.example"}),
    Case("https://private.example/", "host", settings=_ONE | {"fetch_private_hosts": "private.example:8000"}),
    Case("https://a.private.example/", "host", settings=_ONE | {"fetch_private_hosts": "private.example"}),
]
ADDRESSES = [
    *_cases("scheme", OTHER_SCHEMES), *_cases("credentials", CREDENTIALS), *_cases("characters", CHARACTERS),
    *_cases("host", HOSTS), *_cases("host", LONG_HOSTS), *_cases("port", NO_PORTS), *_cases("port", OTHER_PORTS),
    *NAMES, *NOT_ALLOWED,
    *(Case(f"http://[{a}]/" if ":" in a else f"http://{a}/", "address", (a,)) for a in NOT_PUBLIC.split()),
    *(Case("https://rebound.example/", "address", (a,)) for a in NOT_PUBLIC.split()),
]  # fmt: skip

# What a redirect names, and how following it is refused. {canary} is the port of a listener that nobody may reach.
REDIRECTS = {
    "file:///etc/passwd": "scheme",
    "gopher://127.0.0.1:{canary}/_": "scheme",
    "data:audio/wav,RIFF": "scheme",
    "ftp://allowed.example/": "scheme",
    "//user@allowed.example/": "credentials",
    "http://127.0.0.1:{canary}/": "port",
    "http://[::1]:{canary}/": "port",
    "//localhost:{canary}/": "port",
    "http://localhost/": "address",
    "http://169.254.169.254/latest/meta-data/": "address",
    "http://10.0.0.1/": "address",
    "https://[fd00:ec2::254]/": "address",
    "//[::ffff:127.0.0.1]/": "address",
    "http://0x7f000001:{canary}/": "host",
    "http://2130706433:{canary}/": "host",
    "http://127.1:{canary}/": "host",
    "https://allowed.example\\@127.0.0.1/": "characters",
    "/a b": "characters",
    "/" + "a" * 9_000: "characters",
    "http://[::1": "redirect",
    "https://ällowed.example/": "redirect",
    "/redirect-again": "redirect",
    "?": "redirect",
}


def _ok(*headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode("latin-1") + body


def _status(status: str, *headers: str) -> bytes:
    return _ok("Content-Length: 0", *headers).replace(b"200 OK", status.encode())


def dribble(start: bytes, piece: bytes, seconds: float = 0.05) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(2_000):
            connection.sendall(piece)
            time.sleep(seconds)

    return behave


def flood(start: bytes, piece: bytes) -> Behaviour:
    return dribble(start, piece, seconds=0)


def silence(start: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.recv(1)

    return behave


def reset(start: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.sendall(start)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


FAILED, MISSING, REFUSED, TOO_LARGE = (
    f"recording_{what}" for what in ("unreachable", "not_found", "refused", "too_large")
)
_CHUNKED, _KILOBYTE = "Transfer-Encoding: chunked", b"a" * 1_000
_BOMB = gzip.compress(bytes(20_000_000))

# What a host answers, and the code of the error; with a refusal behind it where the guard has one.
HOSTILE: dict[str, tuple[bytes | Behaviour, str]] = {
    "nothing": (b"", FAILED),
    "silence": (silence(b""), FAILED),
    "HTTP 0.9": (b"RIFF....WAVEfmt \n", FAILED),
    "another protocol": (b"220 mail.example ESMTP\r\n250 ok\r\n\r\n", FAILED),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", FAILED),
    "a version that is none": (b"HTTP/x 200 OK\r\n\r\n", FAILED),
    "a status that is none": (b"HTTP/1.1 abc OK\r\n\r\n", FAILED),
    "a status of 99 digits": (b"HTTP/1.1 " + b"9" * 99 + b" OK\r\n\r\n", FAILED),
    "a header without a colon": (_ok("nonsense", "Content-Length: 0"), FAILED),
    "a header with NUL": (_ok("A: b\0c", "Content-Length: 0"), FAILED),
    "a space before the colon": (_ok("Content-Length : 5", body=b"hello"), FAILED),
    "headers that are cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", FAILED),
    "a header of 200 KB": (_ok("A: " + "a" * 200_000), FAILED),
    "headers without end": (flood(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100), FAILED),
    "slow loris": (dribble(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), FAILED),
    "a slow status line": (dribble(b"", b"H"), FAILED),
    "100 Continue for ever": (dribble(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), FAILED),
    "a dribbling body": (dribble(_ok("Content-Length: 40000"), b"a"), FAILED),
    "a body that stops": (silence(_ok("Content-Length: 9", body=b"hello")), FAILED),
    "a body without end": (flood(_ok(), _KILOBYTE), TOO_LARGE),
    "a body without end, chunked": (flood(_ok(_CHUNKED), b"3e8\r\n" + _KILOBYTE + b"\r\n"), TOO_LARGE),
    "framing without end": (flood(_ok(_CHUNKED), b"1;" + b"x" * 9_000 + b"\r\na\r\n"), TOO_LARGE),
    "one byte too many": (_ok(f"Content-Length: {MAXIMUM_BYTES + 1}", body=b"a" * (MAXIMUM_BYTES + 1)), TOO_LARGE),
    "one byte too many, unsaid": (_ok(body=b"a" * (MAXIMUM_BYTES + 1)), TOO_LARGE),
    "a length of a terabyte": (silence(_ok(f"Content-Length: {10**12}")), TOO_LARGE),
    "a length of 5,000 digits": (_ok("Content-Length: " + "9" * 5_000), FAILED),
    "a length longer than the body": (_ok("Content-Length: 6", body=b"hello"), FAILED),
    "a negative length": (_ok("Content-Length: -1"), FAILED),
    "a length with a sign": (_ok("Content-Length: +5", body=b"hello"), FAILED),
    "a length that is no number": (_ok("Content-Length: five", body=b"hello"), FAILED),
    "two lengths": (_ok("Content-Length: 5", "Content-Length: 6", body=b"hello"), FAILED),
    "a chunk size that is none": (_ok(_CHUNKED, body=b"zz\r\nhello"), FAILED),
    "a negative chunk size": (_ok(_CHUNKED, body=b"-5\r\nhello\r\n0\r\n\r\n"), FAILED),
    "a huge chunk size": (_ok(_CHUNKED, body=b"ffffffffffffffff\r\nhello\r\n"), FAILED),
    "a chunk size of 99 digits": (_ok(_CHUNKED, body=b"f" * 99 + b"\r\nhello\r\n"), FAILED),
    "a chunk that ends elsewhere": (_ok(_CHUNKED, body=b"3\r\nhello\r\n0\r\n\r\n"), FAILED),
    "no last chunk": (_ok(_CHUNKED, body=b"5\r\nhello\r\n"), FAILED),
    "trailers without end": (flood(_ok(_CHUNKED, body=b"0\r\n"), b"A: b\r\n" * 100), FAILED),
    "chunks, gzipped on the way": (_ok("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), FAILED),
    "a gzip bomb": (_ok("Content-Encoding: gzip", f"Content-Length: {len(_BOMB)}", body=_BOMB), "encoding"),
    "gzip, though identity was asked": (_ok("Content-Encoding: gzip", body=gzip.compress(b"hello")), "encoding"),
    "deflate": (_ok("Content-Encoding: deflate", body=zlib.compress(b"hello")), "encoding"),
    "two encodings": (_ok("Content-Encoding: identity", "Content-Encoding: br", body=b"hello"), "encoding"),
    "a list of encodings": (_ok("Content-Encoding: identity, gzip", body=b"hello"), "encoding"),
    "reset before the answer": (reset(b""), FAILED),
    "reset within the body": (reset(_ok("Content-Length: 9", body=b"hello")), FAILED),
    "switching protocols": (_status("101 Switching", "Upgrade: h2c"), FAILED),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", FAILED),
    "a part": (_ok("Content-Range: bytes 0-4/9", "Content-Length: 5", body=b"hello").replace(b"200", b"206"), FAILED),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", FAILED),
    "a redirect to nowhere": (_status("302 Found"), FAILED),
    "a choice": (_status("300 Choices", "Location: /hello"), FAILED),
    "bad request": (_status("400 Bad"), REFUSED),
    "unauthorized": (_status("401 No", 'WWW-Authenticate: Basic realm="x"'), REFUSED),
    "forbidden": (_status("403 No"), REFUSED),
    "not found": (_status("404 No"), MISSING),
    "gone": (_status("410 Gone"), MISSING),
    "too many requests": (_status("429 Slow"), FAILED),
    "a server error": (_status("500 Error"), FAILED),
    "unavailable": (_status("503 Away"), FAILED),
    "a redirect without end": (flood(_ok("Location: /redirect-again").replace(b"200", b"302"), _KILOBYTE), "redirect"),
}  # fmt: skip
