"""Byte buffers that grow, and a small pool of them.

It must not know who writes or reads. Invariant: a Buffer's live bytes are ``data[start:end]``, and an empty one is given
back, never kept: a pointer that is not NULL means that bytes wait there.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

cdef enum:
    OUTBOX_BYTES = 1024          # an outbox begins with this
    INBOX_BYTES = 64             # a held part of a frame begins with this
    POOLED_MAX_BYTES = 4096      # a larger buffer is not worth keeping
    POOLED_BUFFERS = 256         # so the pool holds 1 MiB at most

cdef struct Buffer:
    Py_ssize_t start
    Py_ssize_t end
    Py_ssize_t capacity
    Buffer *next                 # in the pool

cdef struct Pool:
    Buffer *head
    Py_ssize_t count


cdef inline uint8_t *bytes_of(Buffer *buffer) noexcept nogil:
    return <uint8_t *>(buffer + 1)


cdef inline Py_ssize_t held(const Buffer *buffer) noexcept nogil:
    return 0 if buffer == NULL else buffer.end - buffer.start


cdef inline Buffer *take_buffer(Pool *pool, Py_ssize_t capacity) noexcept nogil:
    cdef Buffer *buffer = pool.head
    if buffer != NULL and OUTBOX_BYTES <= capacity <= buffer.capacity:
        pool.head = buffer.next
        pool.count -= 1
    else:
        buffer = <Buffer *>malloc(sizeof(Buffer) + <size_t>capacity)
        if buffer == NULL:
            return NULL
        buffer.capacity = capacity
    buffer.start = buffer.end = 0
    return buffer


cdef inline void give_buffer(Pool *pool, Buffer *buffer) noexcept nogil:
    if buffer == NULL:
        return
    if OUTBOX_BYTES <= buffer.capacity <= POOLED_MAX_BYTES and pool.count < POOLED_BUFFERS:
        buffer.next = pool.head
        pool.head = buffer
        pool.count += 1
    else:
        free(buffer)


cdef inline void empty_pool(Pool *pool) noexcept nogil:
    cdef Buffer *buffer
    while pool.head != NULL:
        buffer = pool.head
        pool.head = buffer.next
        free(buffer)
    pool.count = 0


cdef inline bint move_to(Pool *pool, Buffer **slot, Py_ssize_t capacity) noexcept nogil:
    """Put the live bytes at the start of another buffer."""
    cdef Buffer *old = slot[0]
    cdef Buffer *new = take_buffer(pool, capacity)
    if new == NULL:
        return False
    new.end = held(old)
    memcpy(bytes_of(new), bytes_of(old) + old.start, <size_t>new.end)
    give_buffer(pool, old)
    slot[0] = new
    return True


cdef inline bint append(Pool *pool, Buffer **slot, const uint8_t *p, Py_ssize_t n, Py_ssize_t first) noexcept nogil:
    """Add n bytes. False: no memory, nothing changed.

    Bytes are moved only when at least as many were consumed or are made room for: linear in all, however large it grows.
    """
    cdef Buffer *buffer = slot[0]
    cdef Py_ssize_t live
    if buffer == NULL:
        buffer = slot[0] = take_buffer(pool, n if n > first else first)
        if buffer == NULL:
            return False
    elif n > buffer.capacity - buffer.end:
        live = held(buffer)
        if buffer.start >= live and n <= buffer.capacity - live:
            memmove(bytes_of(buffer), bytes_of(buffer) + buffer.start, <size_t>live)
            buffer.start = 0
            buffer.end = live
        elif not move_to(pool, slot, live + (n if n > live else live)):
            return False
        buffer = slot[0]
    memcpy(bytes_of(buffer) + buffer.end, p, <size_t>n)
    buffer.end += n
    return True


cdef inline void consume(Pool *pool, Buffer **slot, Py_ssize_t n) noexcept nogil:
    """Forget the first n bytes; give the buffer back when none is left, and most of it when few are."""
    cdef Buffer *buffer = slot[0]
    buffer.start += n
    cdef Py_ssize_t live = held(buffer)
    if live == 0:
        slot[0] = NULL
        give_buffer(pool, buffer)
    elif buffer.capacity > POOLED_MAX_BYTES and live < buffer.capacity // 4:
        move_to(pool, slot, live)  # without memory for it the large one stays, which is right as well
