"""Connections that tests slow down, silence, cut and heal: Toxiproxy, by its HTTP interface.

Owns the proxy's process and its proxies; must not know what goes through. Invariant: a proxy keeps its address over
everything that is done to it, so that clients find the way again.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

from tests.servers.addresses import free_port
from tests.servers.processes import Server, ServerProcess

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 10.0

Direction = Literal["upstream", "downstream"]
"""Of the bytes: upstream is from the client to the server."""

BOTH: tuple[Direction, ...] = ("upstream", "downstream")


class Proxy:
    """A way to one server."""

    def __init__(self, toxiproxy: Toxiproxy, name: str, host: str, port: int) -> None:
        self.name = name
        self.host = host
        self.port = port
        self._toxiproxy = toxiproxy

    def delay(self, latency_ms: int, jitter_ms: int = 0, *directions: Direction) -> None:
        """All bytes arrive later by ``latency_ms`` ± ``jitter_ms``; both ways unless one is named."""
        self._add("latency", {"latency": latency_ms, "jitter": jitter_ms}, directions)

    def throttle(self, kilobytes_per_s: int, *directions: Direction) -> None:
        self._add("bandwidth", {"rate": kilobytes_per_s}, directions)

    def silence(self, *directions: Direction) -> None:
        """Bytes are lost, connections stay and new ones are accepted: a cut cable. ``heal`` closes the connections."""
        self._add("timeout", {"timeout": 0}, directions)

    def reset(self, after_ms: int = 0) -> None:
        """Connections end by a TCP reset, new ones too."""
        self._add("reset_peer", {"timeout": after_ms}, ("downstream",))

    def cut_after(self, size_bytes: int, *directions: Direction) -> None:
        """Close each connection when so many bytes went through."""
        self._add("limit_data", {"bytes": size_bytes}, directions)

    def refuse(self) -> None:
        """Close all connections and refuse new ones: nobody listens."""
        self._toxiproxy.ask("POST", f"/proxies/{self.name}", {"enabled": False})

    def heal(self) -> None:
        """Take everything away that was done to it."""
        for toxic in self._toxiproxy.ask("GET", f"/proxies/{self.name}/toxics"):
            self._toxiproxy.ask("DELETE", f"/proxies/{self.name}/toxics/{toxic['name']}")
        self._toxiproxy.ask("POST", f"/proxies/{self.name}", {"enabled": True})

    def close(self) -> None:
        self._toxiproxy.ask("DELETE", f"/proxies/{self.name}")

    def _add(self, kind: str, attributes: dict[str, int], directions: tuple[Direction, ...]) -> None:
        for direction in directions or BOTH:
            toxic = {"name": f"{kind}-{direction}", "type": kind, "stream": direction, "attributes": attributes}
            self._toxiproxy.ask("POST", f"/proxies/{self.name}/toxics", toxic)


class Toxiproxy(Server):
    """One process for any number of proxies. Paused, it lets all bytes of all proxies wait; none is lost."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self._made = 0
        command = [str(binary), "-host", self.host, "-port", str(self.port)]
        self.process = ServerProcess(f"Toxiproxy on port {self.port}", command, folder)

    def start(self) -> None:
        self.process.start(self._is_answering, START_TIMEOUT_S)

    def _is_answering(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            self.ask("GET", "/proxies")
            return True
        return False

    def proxy(self, host: str, port: int, *, listen_host: str = "127.0.0.1", listen_port: int = 0) -> Proxy:
        """A new way to ``host:port``, on a free port unless one is named."""
        self._made += 1
        name = f"proxy{self._made}"
        listen_port = listen_port or free_port(listen_host)
        listen = f"{listen_host}:{listen_port}"
        self.ask("POST", "/proxies", {"name": name, "listen": listen, "upstream": f"{host}:{port}", "enabled": True})
        return Proxy(self, name, listen_host, listen_port)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request to its HTTP interface; raises urllib.error.HTTPError with what it says."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.host}:{self.port}{path}", content, method=method)
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def clear(self) -> None:
        """Without any proxy, as new."""
        for name in self.ask("GET", "/proxies"):
            self.ask("DELETE", f"/proxies/{name}")

    def close(self) -> None:
        self.process.kill()
