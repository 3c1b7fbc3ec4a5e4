"""The page as a whole: its routes, who may call them, and the server."""

import asyncio
import os
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nicegui import app, background_tasks, ui

from gui.desk import Desk
from gui.guard import Access, Guard
from gui.pages import jobs, prepare, results, segment, train
from gui.places import Places, Uploads
from gui.routes import add_routes
from gui.store import Store
from gui.viewer.routes import register as register_viewer
from gui.worker import Worker
from seg_core.errors import UsageError

_OPENING = 60.0  # seconds that a browser may take to open


@dataclass(frozen=True)
class Config:
    """How the page is served.

    Parameters
    ----------
    store : Path
        Where jobs and results are kept.
    roots : tuple of Path
        What the page may look into, beside the store.
    port : int
        0: one that is free.
    host : str
        This computer.
    browser : bool
        Whether one is opened.
    """

    store: Path
    roots: tuple[Path, ...]
    port: int = 0
    host: str = "127.0.0.1"
    browser: bool = True


def serve(config: Config, say: Callable[[str], object]) -> None:
    """Serve the page until it is ended.

    Parameters
    ----------
    config : Config
        How.
    say : callable
        Told the address, once the page can be opened.

    Raises
    ------
    UsageError
        If a root is not there, the port is taken, or another page uses the store.
    """
    places = Places(config.roots)
    store = Store(config.store)
    port = _free_port(config.host, config.port)
    desk = Desk(store, Worker(store), places, Uploads(store.root / "uploads"))
    desk.sweep()
    access = Access(port, largest=desk.uploads.largest)
    for page in (segment, results, jobs, prepare, train):
        page.register(desk)
    add_routes(app, desk)
    app.on_shutdown(register_viewer(app).leave_all)
    _guard(access)
    _end_with_the_terminal()
    app.on_startup(desk.worker.start)
    app.on_startup(lambda: background_tasks.create(_announce(config, port, access.address, say)))
    app.on_shutdown(desk.worker.stop)
    app.on_shutdown(store.close)
    ui.run(
        host=config.host,
        port=port,
        title="lls",
        favicon="🦴",
        dark=store.setting("dark"),
        reload=False,
        show=False,
        tailwind=False,
        show_welcome_message=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        reconnect_timeout=30.0,  # a laptop under load, or asleep, keeps its page
    )


async def _announce(config: Config, port: int, address: str, say: Callable[[str], object]) -> None:
    """Say the address as soon as the port answers, which is after the server's start, and open it."""
    while True:
        try:
            _, writer = await asyncio.open_connection(config.host, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            break
    say(address)
    if config.browser:
        with suppress(OSError):  # no room for a file: the address was said
            await open_browser(address, Path.home())


async def open_browser(address: str, folder: Path) -> None:
    """Open an address in a browser, whose command line all users of this computer can read.

    So it is given a file that only this user can read and that leads to the address. The file stays a minute,
    and lies where a browser in a sandbox can read too, which hidden and temporary folders are not.

    Parameters
    ----------
    address : str
        With the secret.
    folder : Path
        Where the file lies.
    """
    handle, name = tempfile.mkstemp(prefix="lls-", suffix=".html", dir=folder)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">lls</a>')
        await asyncio.to_thread(webbrowser.open, Path(name).as_uri())
        await asyncio.sleep(_OPENING)
    finally:
        Path(name).unlink(missing_ok=True)


def _end_with_the_terminal() -> None:
    """Let a terminal that is closed end the page as SIGTERM does, with its jobs."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as nohup leaves it
        signal.signal(hangup, lambda number, frame: signal.raise_signal(signal.SIGTERM))


def _guard(access: Access) -> None:
    """Put the guard around everything, also around what the framework adds last."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: Guard(build(), access)  # type: ignore[method-assign,assignment]


def _free_port(host: str, wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise UsageError(f"port {wanted} is taken", fix="name another --port, or none") from error
        return int(probe.getsockname()[1])
