"""Who may talk to the page: this user's browser, from this page, and nobody else.

A page on 127.0.0.1 can be reached by every program and every web page of this computer. So each request, and
each websocket, must name this host (else another site could rebind its name to 127.0.0.1), come from this
origin, and bring the secret, once in the address and from then on as a cookie.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_WORDS = {
    401: "This page belongs to the person who started lls. Open the address that `lls gui` printed.",
    403: "Refused: this request did not come from the page itself.",
    413: "Refused: more than this page takes.",
}
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)


@dataclass(frozen=True)
class Access:
    """What a request must bring.

    Parameters
    ----------
    port : int
        Where the page is served.
    token : str
        In the address that is opened first.
    cookie : str
        The cookie's value from then on.
    largest : int
        Bytes that a request may bring.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    largest: int = 4 * 2**30

    @property
    def hosts(self) -> tuple[str, str]:
        """What the Host header may say."""
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}"

    @property
    def cookie_name(self) -> str:
        """The cookie's name; cookies do not tell ports apart."""
        return f"lls-{self.port}"

    @property
    def address(self) -> str:
        """What the user opens."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"


class Guard:
    """ASGI middleware around every route of the page."""

    def __init__(self, app: App, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if not self._from_here(scope, headers):
            return await _refuse(scope, send, 403)
        if scope["type"] == "http" and _same(query.pop("token", ""), self.access.token):
            from_file = headers.get("sec-fetch-site") == "cross-site"
            return await self._welcome(scope, send, query, from_file)
        if not _same(self._cookie(headers), self.access.cookie):
            return await _refuse(scope, send, 401)
        if int(headers.get("content-length") or 0) > self.access.largest:
            return await _refuse(scope, send, 413)
        await self.app(scope, receive, _with_headers(send))

    def _from_here(self, scope: Message, headers: dict[str, str]) -> bool:
        host = headers.get("host", "")
        if host not in self.access.hosts:
            return False
        origin = headers.get("origin")
        if scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD"):
            return origin == f"http://{host}"  # browsers always name it here
        return origin in (None, f"http://{host}")

    def _cookie(self, headers: dict[str, str]) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.access.cookie_name)
        except CookieError:
            return ""
        return found.value if found else ""

    async def _welcome(self, scope: Message, send: Send, query: dict[str, str], from_file: bool) -> None:
        """Set the cookie, and lead to the same page without the token in its address.

        Who comes from the file that opens the browser is led by a page: a redirect counts as the file's, and
        takes no strict cookie along.
        """
        # One slash: two would name another host.
        target = "/" + re.sub(r"[^\w/.-]", "", scope["path"]).lstrip("/")
        target += f"?{urlencode(query)}" if query else ""
        cookie = f"{self.access.cookie_name}={self.access.cookie}; Path=/; HttpOnly; SameSite=Strict"
        lead = {"refresh": f"0; url={target}"} if from_file else {"location": target}
        told = lead | {"set-cookie": cookie, "cache-control": "no-store", "referrer-policy": "no-referrer"}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        status = 200 if from_file else 303
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


async def _refuse(scope: Message, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _WORDS[status].encode()})


def _with_headers(send: Send) -> Send:
    """Add what keeps other sites from framing the page, and the page from fetching from others."""
    extra = [
        (b"content-security-policy", _POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), *extra]
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))  # a browser's disk is no place for a patient
            message = {**message, "headers": headers}
        await send(message)

    return sending
