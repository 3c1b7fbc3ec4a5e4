import asyncio

import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from gui.guard import Access, Guard

ACCESS = Access(8123, token="right-token", cookie="right-cookie", largest=1000)
HOST = "127.0.0.1:8123"


async def page(scope, receive, send):
    """Stands for the page behind the guard."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(path="/", query="", method="GET", kind="http", **headers):
    """Send one request through the guard; returns what was sent back."""
    headers = {"host": HOST, "cookie": f"lls-8123={ACCESS.cookie}"} | headers
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items() if v is not None],
    }
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    asyncio.run(Guard(page, ACCESS)(scope, receive, send))
    return sent


def status(sent):
    return sent[0]["status"]


def headers_of(sent):
    return {key.decode(): value.decode() for key, value in sent[0]["headers"]}


def test_the_token_opens_the_page_once_and_becomes_a_cookie():
    sent = ask(query="token=right-token", cookie=None)
    assert status(sent) == 303
    assert headers_of(sent)["location"] == "/"
    cookie = headers_of(sent)["set-cookie"]
    assert cookie.startswith("lls-8123=right-cookie;")
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert status(ask()) == 200


@pytest.mark.parametrize(
    ("query", "cookie"),
    [
        ("", None),
        ("token=wrong", None),
        ("token=", None),
        ("", "lls-8123=wrong"),
        ("", "lls-9999=right-cookie"),
        ("", "lls-8123=right-token"),
        ("", "lls-8123="),
        ("token=r%C3%AFght", "\x00;=;"),
    ],
)
def test_without_token_or_cookie_nothing_is_shown(query, cookie):
    sent = ask(query=query, cookie=cookie)
    assert status(sent) == 401
    assert b"the page" not in sent[1]["body"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8123", "127.0.0.1", "127.0.0.1:80", "", None])
def test_another_host_is_refused_also_with_the_token(host):
    assert status(ask(host=host)) == 403
    assert status(ask(host=host, query="token=right-token")) == 403
    assert ask(host=host, kind="websocket", origin=f"http://{HOST}")[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8123", "http://127.0.0.1:1"]
)
def test_another_origin_is_refused(origin):
    assert status(ask(origin=origin)) == 403
    assert status(ask(origin=origin, method="POST")) == 403
    assert ask(origin=origin, kind="websocket")[0]["type"] == "websocket.close"


def test_what_changes_something_must_name_its_origin():
    assert status(ask(method="POST")) == 403
    assert status(ask(method="POST", origin=f"http://{HOST}")) == 200
    assert ask(kind="websocket")[0]["type"] == "websocket.close"
    assert ask(kind="websocket", origin=f"http://{HOST}", cookie=None)[0]["type"] == "websocket.close"
    assert ask(kind="websocket", origin=f"http://{HOST}")[0]["type"] == "websocket.accept"


def test_a_request_that_is_too_large_is_refused_before_it_is_read():
    post = {"method": "POST", "origin": f"http://{HOST}"}
    assert status(ask(**post, content_length="1000")) == 200
    assert status(ask(**post, content_length=str(10 * 2**30))) == 413


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/%0d%0aSet-Cookie:x", "/a\r\nX: y"])
def test_the_way_in_leads_nowhere_else(path):
    location = headers_of(ask(path, "token=right-token&model=a%0Ab", cookie=None))["location"]
    assert location.startswith("/")
    assert not location.startswith("//")
    assert not set(location) & set("\r\n\\:")


def test_the_page_may_fetch_from_itself_only_and_stand_in_no_frame():
    policy = headers_of(ask())["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert headers_of(ask())["cache-control"] == "no-store"


def test_who_comes_from_the_file_that_opens_the_browser_is_led_by_a_page():
    """A strict cookie does not go along with a redirect of another site's, as a file's is."""
    sent = ask("/train", "token=right-token&data=a", cookie=None, sec_fetch_site="cross-site")
    assert status(sent) == 200
    assert headers_of(sent)["refresh"] == "0; url=/train?data=a"
    assert headers_of(sent)["set-cookie"].startswith("lls-8123=right-cookie;")
    assert status(ask(query="token=wrong", cookie=None, sec_fetch_site="cross-site")) == 401
