"""What the driver says, in the store's own words. Nothing of the driver leaves this package.

Invariant: StoreUnavailable only where the request did not leave this process. A server's own "unavailable" is not that: of
a batch for several partitions it may have begun the first ones before it found no quorum for another.
"""

from __future__ import annotations

from cassandra import (
    AlreadyExists,
    AuthenticationFailed,
    ConfigurationException,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    RequestExecutionException,
    Unauthorized,
    UnresolvableContactPoints,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionException
from cassandra.protocol import ErrorMessage, SyntaxException

from storage.api import StoreConflict, StoreError, StoreTimedOut, StoreUnavailable

_REFUSED_BY_VALIDATION = (InvalidRequest, SyntaxException, Unauthorized, AlreadyExists, ConfigurationException)
"""A server looks at the whole request before it begins: nothing of it was written, and it would be refused again."""

DRIVER_ERRORS = (
    DriverException,
    RequestExecutionException,
    NoHostAvailable,
    ConnectionException,
    AuthenticationFailed,
    UnresolvableContactPoints,
    ErrorMessage,
    OSError,
)


def translate(error: BaseException, *, was_sent: bool) -> StoreError:
    """What became of one request."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, _REFUSED_BY_VALIDATION):
        return StoreConflict(f"the cluster refuses the statement: {first_line(error)}")
    if not was_sent:
        return StoreUnavailable(f"no node can be asked: {first_line(error)}")
    if isinstance(error, OperationTimedOut):
        return StoreTimedOut("no answer from the cluster in time")
    return StoreTimedOut(f"the cluster did not do it for certain: {first_line(error)}")


def unreachable(error: BaseException, contact_points: tuple[str, ...], port: int) -> StoreUnavailable:
    """Why ``open`` failed, in one line."""
    places = ", ".join(f"{point}:{port}" for point in contact_points)
    return StoreUnavailable(f"cannot use the cluster at {places}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    if isinstance(error, NoHostAvailable) and error.errors:
        host, reason = next(iter(error.errors.items()))
        return f"{getattr(host, 'endpoint', host)}: {first_line(reason)}"
    if isinstance(error, NoHostAvailable):
        return "no connection is open"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
