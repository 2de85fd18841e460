"""Questions of the application: asked on whatever session there is, again on the next one, with the patience that is
asked for.

Every request that goes through here may be repeated: the protocol makes each of them idempotent.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import trio

from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.messages import Op
from gateway.protocol.policy import AfterError, after_error, retry_wait_s
from gateway.protocol.validation import validate
from parley.errors import Refused
from parley.lifecycle import Lifecycle
from parley.requests import SessionLost

MAX_FAILURES = 5
"""Answers of class 5xx after which a question is given up."""

T = TypeVar("T", bound=msgspec.Struct)


async def ask(lifecycle: Lifecycle, op: Op, question: msgspec.Struct, answer_type: type[T]) -> T:
    """The server's answer. Raises Refused (also here, for values that the protocol does not allow) and NotConnected."""
    try:
        validate(question)
    except ProtocolError as error:
        raise Refused(error.code, error.message) from None
    refusals = 0
    while True:
        session = await lifecycle.live_session()
        try:
            await session.wait_patience("history" if op is Op.HISTORY else "session")
            return await session.ask(op, question, answer_type)
        except SessionLost:
            continue
        except ProtocolError as error:
            raise Refused(Code.INTERNAL, f"the server's answer is unreadable: {error.message}") from error
        except Refused as error:
            after = after_error(error.code, retry_after_ms=error.retry_after_ms)
            is_worth_it = after is AfterError.WAIT or (after is AfterError.RESEND and refusals < MAX_FAILURES)
            if not is_worth_it:
                raise
            await trio.sleep(retry_wait_s(error.retry_after_ms, refusals))
            refusals += 1
