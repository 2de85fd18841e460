# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The kernel: every socket of a process, the frames on them, and what waits to be written. ``_framing.pyi`` is its
contract.

It owns sockets, buffers and the epoll descriptor. It must not know what a frame means, and calls nothing back: ints and
bytes go in, events come out. Invariant: whatever a peer does, work per call and memory per connection stay below a
bound that was stated beforehand, and no byte is lost, doubled or reordered within a connection.

Theory of operation
===================

*A cycle.* The caller waits until the epoll descriptor is readable, calls ``poll`` once, acts on the events, calls
``flush`` once. Between them nothing is written: ``send``, ``fanout`` and the automatic replies append to outboxes, and
a connection that has something new is put on the dirty list. ``flush`` then makes one send() per dirty connection. That
coalescing is what the kernel is for: in the prototype one sender to 256 receivers reached 1,740,000 deliveries/s with
it and 145,000 without, because a system call costs as much as formatting ten frames.

*Level-triggered epoll.* A poll is bounded: it stops reading a connection after 64 KiB, accepting after 64, and
altogether at ``max_events``. With edge-triggered epoll each stop would need a list of what was left unread, and a
mistake in it is a connection that sleeps for ever. Level-triggered, the system keeps that list. What epoll reported and
the poll did not reach is served first by the next one, before epoll is asked again: else the first few busy sockets of
each report would starve the others.

*Interest is lazy.* A connection that may not be read (its window is full, its outbox is at the bound) keeps EPOLLIN
until the socket is readable indeed; only then is it disarmed. Most pauses end sooner and cost no epoll_ctl. ``_resume``
arms it again, and is called at each of the places where the pause can end: admit, release, send, and any write.

*Where input lies.* recv goes into one buffer that all connections share, and frames are cut out of it right there. Only
what could not be delivered is copied into the connection's inbox: a part of a frame, or frames that are held. When the
rest of that frame comes, the held part is put just before it, into the headroom of the shared buffer, and the
connection's inbox is given back. A frame that comes in crumbs is appended to the inbox, which doubles, so that a byte a
time is linear. Memory follows the bytes that came, never a length that a peer announced. An idle connection has no
buffer at all: 88 bytes in a slab that grows by chunks.

*The ready list.* Input that lies in an inbox and may be delivered is invisible to epoll. Such connections are on the
ready list, first in first out, and so are those with something to tell: DRAINED, or a failed send. While it is not
empty ``has_backlog`` is true and the caller polls again without waiting. A connection on the list is not read.

*Flow control* is one rule, ``may_deliver``: in the greeting phase there is an allowance of one frame, renewed by
``release``; when admitted, fewer than ``window`` requests are unanswered and the outbox is below its bound. It stops
delivery and reading together, so that a peer that floods PINGs and does not read the replies fills one outbox and then
its own socket.

*Outboxes* are one contiguous buffer for each connection that has something to be written, begun from a small pool and
given back when empty. Live bytes are moved only when as many were consumed before (see ``append``), so a large outbox
that is written in small pieces costs linear time. Three bounds: pushes stop at the connection's bound (the connection
becomes muted, since a push can be read again from elsewhere); replies may exceed it by 8 MiB, since a reply cannot, and
the window bounds how many there are; and there is a bound for the process.

*Ends.* ``close`` gives the peer time to read why: flush, shut down the write side, read and discard until the peer's
end or ``linger_s``; closing a socket with unread input would send a reset, which destroys what the peer has not read
yet. A slot's generation grows when it is freed, so a stale ConnId finds nothing. A send that fails is told by the next
poll as CLOSED.

*accept.* Out of descriptors or memory, accept is suspended until a connection ends or the next sweep: a listener that
stays readable would make every wait return at once. (A spare descriptor to accept and close with was rejected: it
refuses peers who would be served a second later.)

*The GIL* is kept in ``poll``, whose work is making Python objects, and released in ``flush`` when several sockets are
written. Not around each recv: with a second thread that wants the GIL, getting it back takes up to 5 ms. The kernel has
no locks: one thread."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENOBUFS, ENOMEM, EPERM, EPROTO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strerror

from gateway._framing_buffers cimport (
    INBOX_BYTES, OUTBOX_BYTES, append, bytes_of, consume, empty_pool, give_buffer, held,
)
from gateway._framing_slab cimport (
    ADMITTED, CLOSING, FREE, GREETING, HEADER_BYTES, INDEX_MASK, LENGTH_BYTES, NO_SLOT,
    count_frames, create_slab, destroy_slab, find, first_free, give_slot, has_whole_frame, is_bad_length, is_open,
    list_ready, mark_dirty, may_deliver, next_dirty, next_ready, number_of, read_u16, read_u32, slab_bytes, slot,
    starts_whole_frame, take_first_free,
)
from gateway._framing_system cimport (
    AF_INET, AF_INET6, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT,
    F_GETFL, F_SETFL, IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL, O_NONBLOCK, SHUT_WR, SO_ERROR, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOL_SOCKET, TCP_NODELAY, accept4, close, epoll_create1, epoll_ctl, epoll_wait, fcntl, getsockopt,
    recv, send, setsockopt, shutdown, sockaddr, sockaddr_in, sockaddr_in6, socklen_t,
)

from gateway._framing_values import (
    ACCEPTED, CLOSED, DRAINED, GREETING_EXPIRED, SILENT, STALLED, TOO_LARGE, TOO_SHORT, KernelFull, KernelStatistics,
)

cdef enum:
    _ACCEPTED = 256
    _CLOSED = 257
    _DRAINED = 258
    _TOO_SHORT = 259
    _TOO_LARGE = 260
    _GREETING_EXPIRED = 1
    _SILENT = 2
    _STALLED = 3
    _RELEASE_GIL_FROM = 4  # sockets in one flush

cdef uint64_t _LISTENER = <uint64_t>1 << 63  # in epoll's word, where a ConnId has 52 bits


cdef class Kernel:
    def __cinit__(self):
        cdef uint32_t i
        self._epoll = -1
        for i in range(<uint32_t>MAX_LISTENERS):
            self._listeners[i].fd = -1

    def __init__(
        self,
        Py_ssize_t max_connections,
        *,
        auto_replies=None,
        uint32_t greeting_max_frame=4096,
        uint32_t greeting_timeout_s=10,
        uint32_t linger_s=2,
        uint32_t stall_timeout_s=15,
        Py_ssize_t max_outbox_bytes=262_144,
        Py_ssize_t max_total_outbox_bytes=1 << 30,
        bytes refusal not None=b"",
    ):
        if not 1 <= max_connections <= INDEX_MASK + 1:
            raise ValueError(f"max_connections must be 1 .. {INDEX_MASK + 1}")
        if self._epoll >= 0:
            raise ValueError("the kernel is running already")
        self._max_connections = <uint32_t>max_connections
        self._greeting_max_frame = greeting_max_frame
        self._greeting_timeout_s = greeting_timeout_s
        self._linger_s = linger_s
        self._stall_timeout_s = stall_timeout_s
        self._max_outbox_bytes = max_outbox_bytes
        self._max_total_outbox_bytes = max_total_outbox_bytes
        self._refusal = refusal
        self._is_accepting = True
        for i in range(256):
            self._auto_replies[i] = -1
        for op, reply in (auto_replies or {}).items():
            self._auto_replies[<uint8_t>op] = <uint8_t>reply
        self._received = <uint8_t *>malloc(HEADROOM_BYTES + RECV_BYTES)
        if not create_slab(&self._slab, self._max_connections) or self._received == NULL:
            raise MemoryError
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise _os_error(errno)

    def __dealloc__(self):
        self._free_memory()

    def shutdown(self):
        self._free_memory()

    cdef void _free_memory(self) noexcept:
        cdef uint32_t index
        cdef Connection *c
        for index in range(self._slab.slots):
            c = slot(&self._slab, index)
            if c.phase != FREE:
                self._free(c)
        destroy_slab(&self._slab)
        self._batch_next = self._batch_end = 0
        free(self._received)
        self._received = NULL
        empty_pool(&self._pool)
        for index in range(<uint32_t>MAX_LISTENERS):
            self._listeners[index].fd = -1
        if self._epoll >= 0:
            close(self._epoll)
            self._epoll = -1

    def fileno(self):
        return self._epoll

    @property
    def has_backlog(self):
        return self._slab.ready.count > 0 or self._batch_next < self._batch_end

    # Slots

    cdef Connection *_open(self, int fd) noexcept nogil:
        """A connection in the greeting phase for this non-blocking socket. NULL: errno says why, and the socket is as it was."""
        cdef epoll_event event
        cdef int one = 1
        cdef Connection *c = first_free(&self._slab)
        if c == NULL:
            return NULL
        event.events = EPOLLIN
        event.data.u64 = number_of(c)
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            return NULL
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))  # fails on a Unix socket, which needs none
        take_first_free(&self._slab)
        c.fd = fd
        c.phase = GREETING
        c.allowance = 1
        c.interest = EPOLLIN
        c.max_frame = self._greeting_max_frame
        c.outbox_bound = self._max_outbox_bytes
        c.window = c.unanswered = c.timeout_s = 0
        c.since_s = c.progress_s = self._now_s
        c.reported_s = NO_SLOT
        c.failure = 0
        c.is_broken = c.is_muted = c.is_drain_wanted = c.is_drained = c.has_ended = False
        return c

    cdef void _free(self, Connection *c) noexcept nogil:
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, c.fd, NULL)  # close alone would not, if another process holds a copy
        close(c.fd)
        self._drop_inbox(c)
        self._drop_outbox(c)
        self._counts.muted -= c.is_muted
        self._counts.closed += 1
        give_slot(&self._slab, c)
        self._set_accepting(True)

    cdef void _drop_inbox(self, Connection *c) noexcept nogil:
        self._counts.input_bytes -= held(c.inbox)
        give_buffer(&self._pool, c.inbox)
        c.inbox = NULL

    cdef void _drop_outbox(self, Connection *c) noexcept nogil:
        self._counts.outbox_bytes -= held(c.outbox)
        give_buffer(&self._pool, c.outbox)
        c.outbox = NULL

    # Interest and clock

    cdef void _set_interest(self, Connection *c, uint32_t interest) noexcept nogil:
        cdef epoll_event event
        if c.interest == interest:
            return
        c.interest = <uint8_t>interest
        event.events = interest
        event.data.u64 = number_of(c)
        epoll_ctl(self._epoll, EPOLL_CTL_MOD, c.fd, &event)

    cdef void _set_accepting(self, bint is_accepting) noexcept nogil:
        cdef epoll_event event
        cdef uint32_t i
        if self._is_accepting == is_accepting:
            return
        self._is_accepting = is_accepting
        for i in range(<uint32_t>MAX_LISTENERS):
            if self._listeners[i].fd >= 0:
                event.events = EPOLLIN if is_accepting else 0
                event.data.u64 = _LISTENER | i
                epoll_ctl(self._epoll, EPOLL_CTL_MOD, self._listeners[i].fd, &event)

    cdef void _set_clock(self, uint32_t now_s) noexcept nogil:
        cdef uint32_t index
        cdef Connection *c
        if not self._has_clock:
            self._has_clock = True
            for index in range(self._slab.slots):  # adopted before anybody told the time
                c = slot(&self._slab, index)
                c.since_s = c.progress_s = now_s
        if now_s > self._now_s:  # time that runs backwards would expire everything
            self._now_s = now_s

    cdef void _resume(self, Connection *c) noexcept nogil:
        """A pause may have ended: read the socket again, and deliver what was held."""
        if not may_deliver(c):
            return
        self._set_interest(c, c.interest | EPOLLIN)
        if has_whole_frame(c):
            list_ready(&self._slab, c)

    # New connections

    def listen(self, int fd, Py_ssize_t tag):
        cdef epoll_event event
        cdef uint32_t i
        cdef uint32_t unused = MAX_LISTENERS
        for i in range(<uint32_t>MAX_LISTENERS):
            if self._listeners[i].fd == fd:
                raise ValueError(f"already listening on {fd}")
            if self._listeners[i].fd < 0 and unused == MAX_LISTENERS:
                unused = i
        if unused == MAX_LISTENERS:
            raise ValueError(f"more than {MAX_LISTENERS} listeners")
        event.events = EPOLLIN if self._is_accepting else 0
        event.data.u64 = _LISTENER | unused
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise _os_error(errno)
        self._listeners[unused].fd = fd
        self._listeners[unused].tag = tag

    def unlisten(self, int fd):
        cdef uint32_t i
        for i in range(<uint32_t>MAX_LISTENERS):
            if fd >= 0 and self._listeners[i].fd == fd:
                epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, NULL)
                self._listeners[i].fd = -1

    def adopt(self, int fd):
        if self._epoll < 0:
            raise ValueError("the kernel was shut down")
        if self._slab.in_use >= self._max_connections:
            raise KernelFull(f"all {self._max_connections} connections are in use")
        cdef int flags = fcntl(fd, F_GETFL)
        if flags < 0 or fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0:
            raise _os_error(errno)
        cdef Connection *c = self._open(fd)
        if c == NULL:
            raise _os_error(errno)
        return number_of(c)

    cdef int _accept(self, Listener *listener, list events, Py_ssize_t max_events) except -1:
        cdef sockaddr_storage address
        cdef socklen_t size
        cdef int fd
        cdef Py_ssize_t tries = max_events - len(events)
        for _ in range(tries if tries < ACCEPTS_PER_POLL else ACCEPTS_PER_POLL):
            size = sizeof(address)
            fd = accept4(listener.fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self._begin(fd, &address, listener.tag, events)
            elif errno == EAGAIN or errno == EINTR:
                break
            else:
                self._counts.accept_failures += 1
                if errno != ECONNABORTED and errno != EPROTO and errno != EPERM:  # not that one peer's failure
                    self._set_accepting(False)
                    break
        return 0

    cdef int _begin(self, int fd, const sockaddr_storage *address, Py_ssize_t tag, list events) except -1:
        cdef Connection *c
        if self._slab.in_use >= self._max_connections:
            self._refuse(fd)
            return 0
        c = self._open(fd)
        if c == NULL:
            close(fd)
            self._counts.accept_failures += 1
            self._set_accepting(False)
            return 0
        self._counts.accepted += 1
        events.append((number_of(c), _ACCEPTED, tag, _packed_address(address)))
        return 0

    cdef void _refuse(self, int fd) noexcept:
        """Say why, best effort: input that came already is read, as it would turn the close into a reset."""
        self._counts.refused += 1
        send(fd, PyBytes_AS_STRING(self._refusal), <size_t>PyBytes_GET_SIZE(self._refusal), MSG_DONTWAIT | MSG_NOSIGNAL)
        shutdown(fd, SHUT_WR)
        recv(fd, self._received, RECV_BYTES, MSG_DONTWAIT)
        close(fd)

    # Input

    def poll(self, Py_ssize_t max_events, uint32_t now_s):
        cdef list events = []
        cdef Connection *c
        cdef epoll_event *event
        cdef uint32_t listed = self._slab.ready.count
        self._set_clock(now_s)
        while listed > 0 and len(events) < max_events:
            listed -= 1
            self._serve_ready(next_ready(&self._slab), events, max_events)
        if self._batch_next == self._batch_end and len(events) < max_events:
            self._wait()
        while self._batch_next < self._batch_end and len(events) < max_events:
            event = &self._batch[self._batch_next]
            self._batch_next += 1
            if event.data.u64 & _LISTENER:
                if self._listeners[event.data.u64 & ~_LISTENER].fd >= 0:
                    self._accept(&self._listeners[event.data.u64 & ~_LISTENER], events, max_events)
                continue
            c = find(&self._slab, event.data.u64)
            if c != NULL:
                self._serve_socket(c, event.events, events, max_events)
        return events

    cdef int _wait(self) except -1:
        if self._epoll < 0:
            raise ValueError("the kernel was shut down")
        cdef int found = epoll_wait(self._epoll, self._batch, SOCKETS_PER_POLL, 0)
        if found < 0 and errno != EINTR:
            raise _os_error(errno)
        self._batch_next = 0
        self._batch_end = found if found > 0 else 0
        return 0

    cdef int _serve_ready(self, Connection *c, list events, Py_ssize_t max_events) except -1:
        if c.phase == CLOSING or c.phase == FREE:
            return 0
        if c.failure != 0:
            return self._end(c, c.failure, events)
        if c.is_drained:
            c.is_drained = False
            events.append((number_of(c), _DRAINED, 0, b""))
        return self._deliver_held(c, events, max_events)

    cdef int _serve_socket(self, Connection *c, uint32_t mask, list events, Py_ssize_t max_events) except -1:
        cdef int number = 0
        cdef socklen_t size = sizeof(number)
        if mask & EPOLLOUT:
            self._write(c)
        if not mask & (EPOLLIN | EPOLLHUP | EPOLLERR) or c.phase == FREE or c.is_listed:
            return 0
        if c.phase == CLOSING:
            self._discard(c, mask)
        elif may_deliver(c):
            self._receive(c, events, max_events)
        elif mask & (EPOLLHUP | EPOLLERR):
            getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &number, &size)
            self._end(c, number, events)
        else:
            self._set_interest(c, c.interest & ~EPOLLIN)
        return 0

    cdef int _receive(self, Connection *c, list events, Py_ssize_t max_events) except -1:
        cdef Py_ssize_t limit = RECV_BYTES
        cdef uint8_t *target = self._received + HEADROOM_BYTES
        if c.phase == GREETING and self._greeting_max_frame < RECV_BYTES - LENGTH_BYTES:
            limit = <Py_ssize_t>self._greeting_max_frame + LENGTH_BYTES  # a stranger fills no more than one frame
        self._counts.recv_calls += 1
        cdef Py_ssize_t n = recv(c.fd, target, <size_t>limit, MSG_DONTWAIT)
        if n <= 0:
            if n < 0 and (errno == EAGAIN or errno == EINTR):
                return 0
            return self._end(c, errno if n < 0 else 0, events)
        self._counts.bytes_in += n
        if c.phase == ADMITTED:
            c.since_s = self._now_s
        if c.inbox == NULL:
            return self._deliver_received(c, target, n, events, max_events)
        return self._receive_onto(c, n, events, max_events)

    cdef int _receive_onto(self, Connection *c, Py_ssize_t n, list events, Py_ssize_t max_events) except -1:
        """n bytes were received while the inbox holds a part of a frame: bring the two together."""
        cdef uint8_t *p = self._received + HEADROOM_BYTES
        cdef uint8_t *part = bytes_of(c.inbox) + c.inbox.start
        cdef Py_ssize_t size = held(c.inbox)
        cdef bint is_crumb = size >= LENGTH_BYTES and read_u32(part) - (size - LENGTH_BYTES) > n
        if size <= HEADROOM_BYTES and not is_crumb:
            p -= size
            memcpy(p, part, <size_t>size)
            self._drop_inbox(c)
            return self._deliver_received(c, p, size + n, events, max_events)
        if not append(&self._pool, &c.inbox, p, n, INBOX_BYTES):
            return self._end(c, ENOMEM, events)
        self._counts.input_bytes += n
        return self._deliver_held(c, events, max_events)

    cdef int _deliver_received(
        self, Connection *c, uint8_t *p, Py_ssize_t n, list events, Py_ssize_t max_events
    ) except -1:
        cdef Py_ssize_t used = self._deliver(c, p, n, events, max_events)
        if used == n:
            return 0
        if not append(&self._pool, &c.inbox, p + used, n - used, INBOX_BYTES):
            return self._end(c, ENOMEM, events)
        self._counts.input_bytes += n - used
        return 0

    cdef int _deliver_held(self, Connection *c, list events, Py_ssize_t max_events) except -1:
        if c.inbox == NULL:
            return 0
        cdef Py_ssize_t used = self._deliver(c, bytes_of(c.inbox) + c.inbox.start, held(c.inbox), events, max_events)
        self._counts.input_bytes -= used
        consume(&self._pool, &c.inbox, used)
        return 0

    cdef Py_ssize_t _deliver(
        self, Connection *c, uint8_t *p, Py_ssize_t n, list events, Py_ssize_t max_events
    ) except -1:
        """Frames from the front of these bytes, as many as may be; how many bytes they were."""
        cdef Py_ssize_t used = 0
        cdef uint32_t length
        while starts_whole_frame(p + used, n - used, c.max_frame) and may_deliver(c):
            if len(events) >= max_events:
                list_ready(&self._slab, c)
                break
            length = read_u32(p + used)
            if is_bad_length(length, c.max_frame):
                c.is_broken = True
                events.append((number_of(c), _TOO_SHORT if length < 4 else _TOO_LARGE, length, b""))
                return n
            self._take_frame(c, p + used, <Py_ssize_t>length + LENGTH_BYTES, events)
            used += <Py_ssize_t>length + LENGTH_BYTES
        return used

    cdef int _take_frame(self, Connection *c, const uint8_t *p, Py_ssize_t size, list events) except -1:
        cdef uint8_t op = p[4]
        cdef uint32_t rid = read_u16(p + 6)
        cdef uint8_t[HEADER_BYTES] reply
        self._counts.frames_in += 1
        if c.phase == ADMITTED and self._auto_replies[op] >= 0:
            if HEADER_BYTES > self._max_total_outbox_bytes - self._counts.outbox_bytes:
                self._counts.dropped_frames += 1
                return 0
            reply[0] = reply[1] = reply[2] = reply[5] = 0
            reply[3] = 4
            reply[4] = <uint8_t>self._auto_replies[op]
            reply[6] = p[6]
            reply[7] = p[7]
            self._counts.auto_replies += self._queue(c, reply, HEADER_BYTES, 1)
            return 0
        if c.phase == GREETING:
            c.allowance -= 1
        c.unanswered += rid != 0
        events.append((
            number_of(c), op, <uint32_t>p[5] << 16 | rid,
            PyBytes_FromStringAndSize(<const char *>p + HEADER_BYTES, size - HEADER_BYTES),
        ))
        return 0

    cdef void _discard(self, Connection *c, uint32_t mask) noexcept nogil:
        """Closing: read and forget, so that the peer's late bytes do not reset what it has yet to read."""
        cdef Py_ssize_t n = recv(c.fd, self._received, RECV_BYTES, MSG_DONTWAIT)
        if n > 0 or (n < 0 and (errno == EAGAIN or errno == EINTR)):
            return
        if n < 0 or mask & (EPOLLHUP | EPOLLERR) or not (c.outbox != NULL or c.is_dirty):
            self._free(c)
        else:
            c.has_ended = True
            self._set_interest(c, c.interest & ~EPOLLIN)

    cdef int _end(self, Connection *c, int number, list events) except -1:
        events.append((number_of(c), _CLOSED, number, b""))
        self._free(c)
        return 0

    # Phases

    def admit(
        self, uint64_t conn, *, uint32_t max_frame, uint32_t window, uint32_t timeout_s, Py_ssize_t max_outbox_bytes=0
    ):
        cdef Connection *c = find(&self._slab, conn)
        if not is_open(c):
            return False
        if c.phase == GREETING:
            c.phase = ADMITTED
            c.since_s = self._now_s
        c.max_frame = max_frame
        c.window = window
        c.timeout_s = timeout_s
        c.outbox_bound = max_outbox_bytes or self._max_outbox_bytes
        self._resume(c)
        return True

    def release(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        if is_open(c) and c.phase == GREETING:
            c.allowance = 1
            self._resume(c)

    def close(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        if c == NULL or c.phase == CLOSING:
            return
        if c.failure != 0:
            self._free(c)
            return
        c.phase = CLOSING
        self._drop_inbox(c)
        self._counts.muted -= c.is_muted
        c.is_muted = c.is_drain_wanted = c.is_drained = False
        c.since_s = c.progress_s = self._now_s
        self._set_interest(c, c.interest | EPOLLIN)
        mark_dirty(&self._slab, c)

    def abort(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        if c != NULL:
            self._free(c)

    def sweep(self, uint32_t now_s):
        cdef list found = []
        cdef Connection *c
        cdef uint32_t index
        cdef int reason
        self._set_clock(now_s)
        self._set_accepting(True)
        for index in range(self._slab.slots):
            c = slot(&self._slab, index)
            if c.phase == FREE:
                continue
            if c.phase == CLOSING:
                if self._is_past_linger(c):
                    self._free(c)
                continue
            reason = self._overdue(c)
            if reason != 0 and c.reported_s != self._now_s:
                c.reported_s = self._now_s
                found.append((number_of(c), reason))
        return found

    cdef bint _is_past_linger(self, const Connection *c) noexcept nogil:
        """Past it without progress; or, as crumbs of progress could go on for hours, past it and the stall time in all."""
        return (self._now_s - c.progress_s >= self._linger_s
                or self._now_s - c.since_s >= <uint64_t>self._linger_s + self._stall_timeout_s)

    cdef int _overdue(self, const Connection *c) noexcept nogil:
        if c.phase == GREETING:
            return _GREETING_EXPIRED if self._now_s - c.since_s >= self._greeting_timeout_s else 0
        if c.outbox != NULL and self._now_s - c.progress_s >= self._stall_timeout_s:
            return _STALLED
        if c.timeout_s != 0 and self._now_s - c.since_s >= c.timeout_s:
            return _SILENT
        return 0

    # Output

    def send(self, uint64_t conn, bytes frame not None, bint more=False):
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(frame)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(frame)
        cdef Py_ssize_t frames = count_frames(p, n)
        if frames == 0:
            raise _not_frames(frame)
        cdef Connection *c = find(&self._slab, conn)
        if not is_open(c):
            return False
        if not self._has_hard_room(c, n) or not self._queue(c, p, n, frames):
            self._counts.dropped_frames += frames
            return False
        if not more and c.unanswered > 0 and read_u16(p + 6) != 0:
            c.unanswered -= 1
            self._resume(c)
        return True

    def answered(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        if is_open(c) and c.unanswered > 0:
            c.unanswered -= 1
            self._resume(c)

    def fanout(self, conns, bytes frame not None, bint is_droppable=False):
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(frame)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(frame)
        cdef Py_ssize_t frames = count_frames(p, n)
        cdef list just_muted = []
        cdef list numbers = conns if type(conns) is list else list(conns)
        cdef Connection *c
        if frames == 0:
            raise _not_frames(frame)
        for conn in numbers:
            c = find(&self._slab, conn)
            if is_open(c) and self._push(c, p, n, frames, is_droppable):
                just_muted.append(conn)
        return just_muted

    cdef bint _push(
        self, Connection *c, const uint8_t *p, Py_ssize_t n, Py_ssize_t frames, bint is_droppable
    ) noexcept nogil:
        """True: the connection has just become muted."""
        cdef Py_ssize_t queued = held(c.outbox)
        if c.is_muted or (is_droppable and queued >= c.outbox_bound // 2):
            self._counts.dropped_frames += frames
            return False
        if queued < c.outbox_bound and self._has_hard_room(c, n) and self._queue(c, p, n, frames):
            return False
        self._counts.dropped_frames += frames
        self._counts.muted += 1
        c.is_muted = True
        return True

    def unmute(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        if c != NULL:
            self._counts.muted -= c.is_muted
            c.is_muted = False

    def outbox_bytes(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        return held(c.outbox) if c != NULL else 0

    def notify_drained(self, uint64_t conn):
        cdef Connection *c = find(&self._slab, conn)
        if not is_open(c) or held(c.outbox) <= c.outbox_bound // 4:
            return False
        c.is_drain_wanted = True
        return True

    def flush(self):
        if self._slab.dirty.count < _RELEASE_GIL_FROM:
            self._flush_all()
        else:
            with nogil:
                self._flush_all()

    cdef void _flush_all(self) noexcept nogil:
        cdef Connection *c
        while self._slab.dirty.head != NO_SLOT:
            c = next_dirty(&self._slab)
            if c.phase == FREE or c.interest & EPOLLOUT:
                continue
            if c.outbox != NULL:
                self._write(c)
            elif c.phase == CLOSING:
                self._finish_sending(c)

    cdef bint _has_hard_room(self, const Connection *c, Py_ssize_t n) noexcept nogil:
        return (n <= c.outbox_bound + HARD_MARGIN_BYTES - held(c.outbox)
                and n <= self._max_total_outbox_bytes - self._counts.outbox_bytes)

    cdef bint _queue(self, Connection *c, const uint8_t *p, Py_ssize_t n, Py_ssize_t frames) noexcept nogil:
        if c.outbox == NULL:
            c.progress_s = self._now_s
        if not append(&self._pool, &c.outbox, p, n, OUTBOX_BYTES):
            return False
        self._counts.outbox_bytes += n
        self._counts.frames_out += frames
        mark_dirty(&self._slab, c)
        return True

    cdef void _write(self, Connection *c) noexcept nogil:
        cdef Py_ssize_t n = held(c.outbox)
        if n > 0:
            self._counts.send_calls += 1
            n = send(c.fd, bytes_of(c.outbox) + c.outbox.start, <size_t>n, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n < 0 and not (errno == EAGAIN or errno == EINTR or errno == ENOBUFS or errno == ENOMEM):
                self._fail(c, errno)
                return
        if n > 0:
            c.progress_s = self._now_s
            self._counts.outbox_bytes -= n
            self._counts.bytes_out += n
            consume(&self._pool, &c.outbox, n)
        if c.outbox != NULL:
            self._set_interest(c, c.interest | EPOLLOUT)
        else:
            self._set_interest(c, c.interest & ~EPOLLOUT)
        if c.phase != CLOSING:
            self._notice_room(c)
        elif c.outbox == NULL:
            self._finish_sending(c)

    cdef void _notice_room(self, Connection *c) noexcept nogil:
        if c.is_drain_wanted and held(c.outbox) <= c.outbox_bound // 4:
            c.is_drain_wanted = False
            c.is_drained = True
            list_ready(&self._slab, c)
        self._resume(c)

    cdef void _finish_sending(self, Connection *c) noexcept nogil:
        if c.has_ended:
            self._free(c)
            return
        c.progress_s = self._now_s
        shutdown(c.fd, SHUT_WR)  # not connected any more: the discarding read will see it

    cdef void _fail(self, Connection *c, int number) noexcept nogil:
        if c.phase == CLOSING:
            self._free(c)
            return
        self._drop_outbox(c)
        c.failure = <uint16_t>number
        list_ready(&self._slab, c)

    def statistics(self):
        cdef Counters *n = &self._counts
        return KernelStatistics(
            connections=self._slab.in_use,
            accepted=n.accepted,
            refused=n.refused,
            closed=n.closed,
            frames_in=n.frames_in,
            bytes_in=n.bytes_in,
            frames_out=n.frames_out,
            bytes_out=n.bytes_out,
            auto_replies=n.auto_replies,
            recv_calls=n.recv_calls,
            send_calls=n.send_calls,
            outbox_bytes=n.outbox_bytes,
            input_bytes=n.input_bytes,
            muted=n.muted,
            dropped_frames=n.dropped_frames,
            slab_bytes=slab_bytes(&self._slab),
            accept_failures=n.accept_failures,
        )


cdef bytes _packed_address(const sockaddr_storage *address):
    """4 bytes for IPv4, also where it comes mapped into IPv6: one peer has one address."""
    cdef const char *p
    cdef bytes packed
    if address.ss_family == AF_INET:
        p = <const char *>&(<sockaddr_in *>address).sin_addr
        return PyBytes_FromStringAndSize(p, 4)
    if address.ss_family == AF_INET6:
        p = <const char *>&(<sockaddr_in6 *>address).sin6_addr
        packed = PyBytes_FromStringAndSize(p, 16)
        return packed[12:] if packed.startswith(bytes(10) + b"\xff\xff") else packed
    return b""


cdef _os_error(int number):
    return OSError(number, strerror(number).decode("utf-8", "replace"))


cdef _not_frames(bytes frame):
    """Our bug, not the peer's: it could never find the next frame."""
    return ValueError(f"these {len(frame)} bytes are not whole frames")
