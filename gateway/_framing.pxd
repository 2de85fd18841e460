"""The kernel's state, and its functions in C. What they do is told in ``_framing.pyx``."""

from libc.stdint cimport int16_t, uint8_t, uint32_t

from gateway._framing_buffers cimport Pool
from gateway._framing_slab cimport Connection, Slab
from gateway._framing_system cimport epoll_event, sockaddr_storage

cdef enum:
    RECV_BYTES = 65536           # read from one connection in one poll, at most
    HEADROOM_BYTES = 65536       # before the bytes read: a held part is put there, so that its frame becomes contiguous
    ACCEPTS_PER_POLL = 64        # for one listener
    SOCKETS_PER_POLL = 1024      # looked at in one poll
    MAX_LISTENERS = 16
    HARD_MARGIN_BYTES = 8388608  # what replies may take above an outbox's bound

cdef struct Listener:
    int fd                       # -1: unused
    Py_ssize_t tag

cdef struct Counters:
    Py_ssize_t accepted, refused, closed, frames_in, bytes_in, frames_out, bytes_out, auto_replies
    Py_ssize_t recv_calls, send_calls, outbox_bytes, input_bytes, muted, dropped_frames, accept_failures


cdef class Kernel:
    cdef int _epoll
    cdef bint _has_clock
    cdef bint _is_accepting
    cdef uint32_t _now_s
    cdef uint32_t _max_connections
    cdef uint32_t _greeting_max_frame, _greeting_timeout_s, _linger_s, _stall_timeout_s
    cdef Py_ssize_t _max_outbox_bytes, _max_total_outbox_bytes
    cdef bytes _refusal
    cdef Slab _slab
    cdef uint8_t *_received              # HEADROOM_BYTES, then RECV_BYTES
    cdef Pool _pool
    cdef Counters _counts
    cdef int16_t[256] _auto_replies      # -1: none
    cdef Listener[MAX_LISTENERS] _listeners
    cdef epoll_event[SOCKETS_PER_POLL] _batch
    cdef int _batch_next, _batch_end

    cdef Connection *_open(self, int fd) noexcept nogil
    cdef void _free(self, Connection *c) noexcept nogil
    cdef void _free_memory(self) noexcept
    cdef void _set_interest(self, Connection *c, uint32_t interest) noexcept nogil
    cdef void _set_accepting(self, bint is_accepting) noexcept nogil
    cdef void _set_clock(self, uint32_t now_s) noexcept nogil
    cdef void _resume(self, Connection *c) noexcept nogil
    cdef int _wait(self) except -1
    cdef int _serve_ready(self, Connection *c, list events, Py_ssize_t max_events) except -1
    cdef int _serve_socket(self, Connection *c, uint32_t mask, list events, Py_ssize_t max_events) except -1
    cdef int _accept(self, Listener *listener, list events, Py_ssize_t max_events) except -1
    cdef int _begin(self, int fd, const sockaddr_storage *address, Py_ssize_t tag, list events) except -1
    cdef void _refuse(self, int fd) noexcept
    cdef int _receive(self, Connection *c, list events, Py_ssize_t max_events) except -1
    cdef int _receive_onto(self, Connection *c, Py_ssize_t n, list events, Py_ssize_t max_events) except -1
    cdef int _deliver_held(self, Connection *c, list events, Py_ssize_t max_events) except -1
    cdef int _deliver_received(self, Connection *c, uint8_t *p, Py_ssize_t n, list events, Py_ssize_t max_events) except -1
    cdef Py_ssize_t _deliver(self, Connection *c, uint8_t *p, Py_ssize_t n, list events, Py_ssize_t max_events) except -1
    cdef int _take_frame(self, Connection *c, const uint8_t *p, Py_ssize_t size, list events) except -1
    cdef void _discard(self, Connection *c, uint32_t mask) noexcept nogil
    cdef int _end(self, Connection *c, int number, list events) except -1
    cdef void _drop_inbox(self, Connection *c) noexcept nogil
    cdef void _drop_outbox(self, Connection *c) noexcept nogil
    cdef bint _queue(self, Connection *c, const uint8_t *p, Py_ssize_t n, Py_ssize_t frames) noexcept nogil
    cdef bint _has_hard_room(self, const Connection *c, Py_ssize_t n) noexcept nogil
    cdef bint _push(self, Connection *c, const uint8_t *p, Py_ssize_t n, Py_ssize_t frames, bint is_droppable) noexcept nogil
    cdef void _flush_all(self) noexcept nogil
    cdef void _write(self, Connection *c) noexcept nogil
    cdef void _notice_room(self, Connection *c) noexcept nogil
    cdef void _finish_sending(self, Connection *c) noexcept nogil
    cdef void _fail(self, Connection *c, int number) noexcept nogil
    cdef bint _is_past_linger(self, const Connection *c) noexcept nogil
    cdef int _overdue(self, const Connection *c) noexcept nogil
