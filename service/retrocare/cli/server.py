"""Run the HTTP service and the worker in one process; if one of their threads ends, so does the process."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress

import uvicorn

from retrocare.api.app import create_app
from retrocare.api.auth import Keys, check_binding
from retrocare.checks.service import Service, opened_service, working
from retrocare.cli.console import say
from retrocare.errors import ConfigurationError, Unavailable
from retrocare.observability import event, write_events
from retrocare.settings import Settings

LOOK_SECONDS = 0.5
GRACE_SECONDS = 8  # for requests that are being answered


def serve(settings: Settings, *, with_worker: bool = True) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises: ConfigurationError, Unavailable before anything listens; Unavailable where a thread ended, so that a
    supervisor starts the process anew.
    """
    write_events()
    check_port(settings)
    with opened_service(settings, say) as service:
        check_binding(settings, Keys(service.database).exist())
        server = Server(
            uvicorn.Config(
                create_app(settings, service),
                host=settings.host,
                port=settings.port,
                workers=1,
                access_log=False,
                log_config=None,  # its lines are written as events, like all others
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

        def end() -> None:
            server.should_exit = True

        # When it is done, uvicorn raises the signal that ended it once more.
        beside = working(service) if with_worker else nullcontext()
        with watched(service, end), suppress(SystemExit, KeyboardInterrupt), beside:
            server.run()
            service.check_threads()
        if not server.started:
            raise not_listening(settings, "it was taken meanwhile")


class Server(uvicorn.Server):
    """Say that the service is ready, and where, as soon as it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            event("ready", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")


def check_port(settings: Settings) -> None:
    """Refuse a port that is taken, before anything is loaded. Raises: ConfigurationError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        raise not_listening(settings, (error.strerror or str(error)).lower()) from None


def not_listening(settings: Settings, why: str) -> ConfigurationError:
    told = f"The service cannot listen on {settings.host}:{settings.port}: {why}"
    return ConfigurationError(told, "Set PORT, or use --port 0 for a free one.")


def work(settings: Settings) -> None:
    """Run a worker and the scheduler until SIGINT or SIGTERM. Raises as ``serve`` does."""
    write_events()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with opened_service(settings, say) as service, working(service), watched(service, stop.set):
        stop.wait()
        service.check_threads()


class watched:  # used like a function
    """Call ``end`` when a thread of the service has ended."""

    def __init__(self, service: Service, end: Callable[[], None]) -> None:
        self.service, self.end, self.done = service, end, threading.Event()
        self.thread = threading.Thread(target=self.watch, name="watch", daemon=True)

    def watch(self) -> None:
        while not self.done.wait(LOOK_SECONDS):
            try:
                self.service.check_threads()
            except Unavailable as ended:
                event("thread_ended", code=ended.code)
                return self.end()
        return None

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
