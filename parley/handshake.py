"""From a fresh connection to WELCOME, or to the reason why not.

It must not know what a session does afterwards. A resume token is tried first; answered 204, the JWT follows on the
same connection.
"""

from __future__ import annotations

import trio

from gateway.protocol import messages as wire
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.events import Ended
from gateway.protocol.messages import Op
from gateway.protocol.validation import AUTH_JWT, AUTH_RESUME, PROTO_MAX
from parley.connection import Connection
from parley.credentials import Credentials
from parley.ending import Ending
from parley.options import Options

TOKENS_DEVICE = 0
"""HELLO's device_id: whichever the token names."""


async def greet(connection: Connection, credentials: Credentials, options: Options) -> wire.Welcome | Ending:
    """Say HELLO and wait for the outcome. Raises TokenUnavailable.

    An Ending without a code: nobody answered, or not in this protocol.
    """
    try:
        with trio.fail_after(options.connect_timeout_s):
            if credentials.resume_token is not None:
                outcome = await _hello(connection, AUTH_RESUME, credentials.resume_token, options)
                if isinstance(outcome, wire.Welcome) or outcome.code != Code.RESUME_FAILED:
                    return outcome
                credentials.resume_token = None
            return await _hello(connection, AUTH_JWT, await credentials.token(), options)
    except trio.TooSlowError:
        return Ending(None, f"no answer to HELLO in {options.connect_timeout_s:g} s")
    except ProtocolError as error:
        return Ending(None, f"what answers does not speak this protocol: {error}")


async def _hello(
    connection: Connection, auth_kind: str, credential: str | bytes, options: Options
) -> wire.Welcome | Ending:
    hello = wire.Hello(
        proto=PROTO_MAX,
        auth_kind=auth_kind,
        credential=credential,
        device_id=TOKENS_DEVICE,
        caps=[],
        keepalive_s=options.keepalive_s,
        window=options.window,
        agent=options.agent or None,
    )
    connection.post(Op.HELLO, hello)
    await connection.flush()
    while True:
        event = await connection.receive()
        if event is None:
            return Ending(None, "the connection was closed before WELCOME")
        if isinstance(event, Ended):
            return Ending.told(event)
        if isinstance(event.message, wire.Welcome):
            return event.message
        if isinstance(event.message, wire.Error):
            return Ending.told(event.message)
