"""Where the node's Unix sockets are.

Owns the directory and the names in it. A Unix socket's path holds 107 bytes; where the data directory is too deep for
that, the sockets are in a directory of the same user under the system's temporary one, named after the data
directory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 107
_LONGEST_NAME = "1000000-9223372036854775807.sock"


class RunDirectory:
    """``open`` once, as the lock's holder."""

    def __init__(self, data: Path) -> None:
        self.path = (data / "run").absolute()
        if len(os.fsencode(self.path / _LONGEST_NAME)) > MAX_SOCKET_PATH_BYTES:
            name = hashlib.blake2b(os.fsencode(self.path), digest_size=8).hexdigest()
            self.path = Path(tempfile.gettempdir()) / f"parley-{os.getuid()}-{name}"

    def open(self) -> None:
        """Make it, for this user alone, and remove what an earlier node left. Raises PermissionError, OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(0, "not a directory of this user", str(self.path))
        self.path.chmod(0o700)
        for stale in self.path.glob("*.sock"):
            stale.unlink(missing_ok=True)

    def socket_of(self, worker: int, incarnation: int) -> str:
        """Every life of a worker has a name of its own: a late connect reaches nobody rather than the wrong one."""
        return str(self.path / f"{worker}-{incarnation}.sock")
