"""What the service's guard is tested with (ssrf.py and listeners.py of fixtures), for the guard of the edge functions.

Says in one line of JSON where the hosts listen and what is expected, serves them until its standard input ends, and
then says whether the canary, which nobody may reach, was reached.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "service")]

from fixtures import ssrf  # noqa: E402
from fixtures.listeners import AGAIN, HELLO, Authority, Canary, listening  # noqa: E402


def main() -> None:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        host = opened.enter_context(listening())
        canary = Canary()
        opened.callback(canary.close)
        for number, (answer, _) in enumerate(ssrf.HOSTILE.values()):
            host.answers[f"/hostile/{number}"] = answer
        for number, location in enumerate(ssrf.REDIRECTS):
            target = location.replace("{canary}", str(canary.port)).encode()
            for path in (f"/redirect/{number}", f"/redirect/{number}?"):
                host.answers[path] = AGAIN.replace(b"/redirect-again", target)
        for step in (1, 2, 3, 4):
            location = f"/{step - 1}" if step > 1 else "hello"
            host.answers[f"/{step}"] = AGAIN.replace(b"/redirect-again", location.encode())

        authority = Authority()
        hosts = {
            "good": authority.serving("recordings.example", folder),
            "another name": authority.serving("other.example", folder),
            "an unknown authority": Authority().serving("recordings.example", folder),
            "a certificate of last week": authority.serving("recordings.example", folder, days=-2),
        }
        secure = {name: opened.enter_context(listening(context)) for name, context in hosts.items()}
        secure["good"].answers["/a?b"] = HELLO
        secure["good"].answers["/down"] = AGAIN.replace(b"/redirect-again", b"http://recordings.example/hello")

        line = {
            "addresses": [
                {"url": case.url, "refusal": case.refusal, "answers": case.answers, "settings": dict(case.settings)}
                for case in ssrf.ADDRESSES
            ],
            "redirects": list(ssrf.REDIRECTS.values()),
            "hostile": [[name, expected] for name, (_, expected) in ssrf.HOSTILE.items()],
            "not_public": ssrf.NOT_PUBLIC.split(),
            "public": [*ssrf.EDGES_OF_PUBLIC.split(), ssrf.PUBLIC, ssrf.PUBLIC_6],
            "maximum_bytes": ssrf.MAXIMUM_BYTES,
            "host": host.port,
            "canary": canary.port,
            "secure": {name: listener.port for name, listener in secure.items()},
            "authority": authority._certificate.public_bytes(Encoding.PEM).decode(),
        }
        print(json.dumps(line), flush=True)
        sys.stdin.buffer.read()
        names = secure["good"].names
        asked = [request.decode("latin-1") for request in secure["good"].requests]
        print(json.dumps({"canary_was_reached": canary.was_reached(), "names": names, "requests": asked}), flush=True)


if __name__ == "__main__":
    main()
