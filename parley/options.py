"""The knobs of a client and their defaults. All have one; most applications touch none."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """How a client behaves. Times in seconds.

    - ``agent``: names the application in the server's logs.
    - ``keepalive_s``: the longest silence, 15..1,800; None: the server's default (270).
    - ``window``: how many unanswered requests to ask for; None: the server's default.
    - ``tls``: a context, usually ``ssl.create_default_context()``; None: plain TCP.
    - ``patient``: keep trying when the very first connection fails, instead of raising CannotConnect.
    - ``fill_gaps``: after an absence fetch every missed message (True), or let the server skip to the newest 100 of
      each chat and say GapSkipped (False: user interfaces that page back by themselves).
    - ``max_events``: log events waiting for the application, beyond which messages are left in the log and read later.
    - ``max_outbox``: messages waiting to be durable, beyond which ``send`` waits and ``send_nowait`` raises.
    - ``sends_per_chat``: unanswered SENDs of one chat. With 1 their order is kept whatever the server answers; with
      more, a message that is refused for now (rate, overload) can be overtaken by those that were on the wire behind
      it.
    - ``connect_timeout_s``: for TCP and TLS, and again for the answer to HELLO.
    - ``answer_timeout_s``: a connection on which nothing comes for so long after a PING is dead.
    - ``reply_timeout_s``: so is one that leaves a request unanswered for so long.
    """

    agent: str = ""
    keepalive_s: int | None = None
    window: int | None = None
    tls: ssl.SSLContext | None = None
    patient: bool = False
    fill_gaps: bool = True
    max_events: int = 1024
    max_outbox: int = 256
    sends_per_chat: int = 1
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 10.0
    reply_timeout_s: float = 60.0


DEFAULTS = Options()
