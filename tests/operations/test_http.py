"""The operations endpoint: strict about what it is asked, bounded in bytes and time."""

from __future__ import annotations

import pytest
import trio

from gateway.node.ports import listen_alone
from gateway.ops.http import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Response, serve
from tests.operations.nodes import request


async def page() -> Response:
    return Response(200, b"a page\n")


async def broken() -> Response:
    raise ValueError("a bug")


async def start(nursery: trio.Nursery, timeout_s: float = 60.0) -> int:
    listener = listen_alone("127.0.0.1", 0, "ops_port")
    port: int = listener.getsockname()[1]

    async def run(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        await serve(listener, {"/page": page, "/broken": broken}, timeout_s=timeout_s, task_status=task_status)

    await nursery.start(run)
    return port


GOOD = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n"

REQUESTS = [
    (GOOD, 200, "a page\n"),
    (b"GET /page?x=1 HTTP/1.1\r\nHost: a\r\n\r\n", 200, "a page\n"),
    (b"GET /page HTTP/1.0\r\n\r\n", 200, "a page\n"),
    (b"HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n", 200, ""),
    (b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n", 404, "no such page: there are /page, /broken\n"),
    (b"POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, "GET and HEAD are served\n"),
    (b"GET /page HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413, "a request without a body, please\n"),
    (b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n", 500, "this page failed, the log says why\n"),
    (b"GET /page HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host: header\n"),
    (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "illegal request line: bytearray(b'\\x16\\x03\\x01\\x02\\x00\\x01')\n"),
    (b"GET /page HTTP/1.1\r\nHost: " + b"a" * 2 * MAX_REQUEST_BYTES, 431, "Receive buffer too long\n"),
]


@pytest.mark.parametrize(("sent", "status", "body"), REQUESTS)
async def test_a_request_gets_its_answer_and_the_connection_ends(
    nursery: trio.Nursery, sent: bytes, status: int, body: str
) -> None:
    port = await start(nursery)
    got_status, headers, got_body = await request(port, sent)
    assert (got_status, got_body) == (status, body)
    assert headers["connection"].lower() == "close"
    assert (await request(port, GOOD))[0] == 200


async def test_a_head_has_the_length_of_the_page(nursery: trio.Nursery) -> None:
    _, headers, _ = await request(await start(nursery), b"HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n")
    assert headers["content-length"] == "7"


async def test_a_request_in_single_bytes_is_a_request(nursery: trio.Nursery) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", await start(nursery)) as stream:
        for byte in GOOD:
            await stream.send_all(bytes([byte]))
        answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 200")


async def test_who_says_nothing_is_cut_off_in_time(nursery: trio.Nursery) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", await start(nursery, timeout_s=0.0)) as stream:
        assert await stream.receive_some() == b""


async def test_connections_beyond_the_bound_are_closed_and_the_others_served(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    waiting = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_CONNECTIONS + 1)]
    assert await waiting[-1].receive_some() == b""
    await waiting[0].send_all(GOOD)
    assert (await waiting[0].receive_some()).startswith(b"HTTP/1.1 200")
    for stream in waiting:
        await stream.aclose()


async def test_a_peer_that_leaves_early_hurts_nobody(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    for sent in (b"", GOOD[:10], GOOD):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        if sent:
            await stream.send_all(sent)
        await stream.aclose()
    assert (await request(port, GOOD))[0] == 200
