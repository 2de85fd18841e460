"""The operations endpoint: a small, strict HTTP/1.1 server for GET and HEAD, on h11 and Trio.

Owns one connection's life: one request, one response, closed. Bounded in every direction: connections, bytes of a
request, time of a connection. It knows paths and routes, not what they tell. A fault of one connection ends that
connection alone.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import h11
import structlog
import trio

MAX_CONNECTIONS = 64
MAX_REQUEST_BYTES = 8192
CONNECTION_TIMEOUT_S = 10.0
TEXT = "text/plain; charset=utf-8"

log = structlog.get_logger(__name__)


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: str = TEXT


Route = Callable[[], Awaitable[Response]]


async def serve(
    listener: socket.socket,
    routes: Mapping[str, Route],
    *,
    timeout_s: float = CONNECTION_TIMEOUT_S,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``routes`` (by path) on a listening, non-blocking socket until cancelled."""
    places = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                places.acquire_on_behalf_of_nowait(stream)
            except trio.WouldBlock:
                return  # closed without a word: whoever holds all the places is not waiting for one
            try:
                with trio.move_on_after(timeout_s):
                    await _converse(stream, routes)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the peer left; nobody is there to be told
            finally:
                places.release_on_behalf_of(stream)

    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    await trio.serve_listeners(serve_one, listeners, task_status=task_status)


async def _converse(stream: trio.SocketStream, routes: Mapping[str, Route]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    try:
        request = await _read_request(stream, connection)
    except h11.RemoteProtocolError as error:
        await _respond(stream, connection, b"GET", Response(error.error_status_hint, f"{error}\n".encode()))
        return
    if request is not None:
        await _respond(stream, connection, request.method, await _answer(request, routes))


async def _read_request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    """The head of the request; None: the peer left. A body is refused by its header, unread."""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(MAX_REQUEST_BYTES))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None


async def _answer(request: h11.Request, routes: Mapping[str, Route]) -> Response:
    path = request.target.partition(b"?")[0].decode("ascii", "replace")
    if path not in routes:
        return Response(404, f"no such page: there are {', '.join(routes)}\n".encode())
    if request.method not in (b"GET", b"HEAD"):
        return Response(405, b"GET and HEAD are served\n")
    if any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in request.headers):
        return Response(413, b"a request without a body, please\n")
    try:
        return await routes[path]()
    except Exception:  # our bug: it must be told, and must not end the node
        log.exception("operations_page_failed", path=path)
        return Response(500, b"this page failed, the log says why\n")


async def _respond(stream: trio.SocketStream, connection: h11.Connection, method: bytes, response: Response) -> None:
    headers = [
        ("content-type", response.content_type),
        ("content-length", str(len(response.body))),
        ("connection", "close"),
    ]
    if response.status == 405:
        headers.append(("allow", "GET, HEAD"))
    events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
    if method != b"HEAD":
        events.append(h11.Data(data=response.body))
    events.append(h11.EndOfMessage())
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))
    await stream.send_eof()
