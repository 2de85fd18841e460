"""The connection in words, for the line that a person sees.

Pure state; times are given by the caller. Knows neither sockets nor screens.
"""

from __future__ import annotations

import math

from parley import events


class ConnectionLine:
    def __init__(self) -> None:
        self.is_connected = False
        self.reason = ""
        self._state = "connecting"
        self._next_at: float | None = None

    def take(self, event: events.ClientEvent, now_s: float) -> None:
        """What the client says of its connection; other events change nothing."""
        match event:
            case events.Connected():
                self._set(True, "connected", "", None)
            case events.Synced() if self.is_connected:
                self._set(True, "connected", "", None)
            case events.Disconnected(_, reason, retry_in_s):
                self._set(False, "reconnecting", reason, now_s + retry_in_s)
            case events.Throttled(scope, retry_in_s):
                self._set(self.is_connected, f"the server asks for patience ({scope})", "", now_s + retry_in_s)
            case events.GoingAway(reason, moves_in_s):
                self._set(True, "the server leaves, moving", reason, now_s + moves_in_s)
            case events.StayedAway(code, reason):
                self._set(False, f"away ({code}): Ctrl-R connects again", reason, None)
            case events.SignedOut(_, reason):
                self._set(False, "signed out", reason, None)

    def describe(self, now_s: float) -> str:
        """``connected``, or ``reconnecting in 4 s (connection lost)``."""
        text = self._state
        if self._next_at is not None and self._next_at > now_s:
            text += f" in {math.ceil(self._next_at - now_s)} s"
        return f"{text} ({self.reason})" if self.reason else text

    @property
    def is_counting(self) -> bool:
        """Whether ``describe`` changes by itself as time goes by."""
        return self._next_at is not None

    def _set(self, is_connected: bool, state: str, reason: str, next_at: float | None) -> None:
        self.is_connected, self._state, self.reason, self._next_at = is_connected, state, reason, next_at
