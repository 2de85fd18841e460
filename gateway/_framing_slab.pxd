"""The kernel's connections: one struct each, in a slab that grows by chunks; the rules on frames and on flow control.

It must not do I/O or know Python objects. Invariant: a slot's generation grows when it is freed, so that a ConnId names one
connection for ever; a slot is at most once on the ready list and once on the dirty list, whoever uses it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from gateway._framing_buffers cimport Buffer, bytes_of, held

cdef enum:
    SLOTS_PER_CHUNK = 512
    INDEX_BITS = 20
    INDEX_MASK = 1048575
    NO_SLOT = 0xFFFFFFFF
    LENGTH_BYTES = 4
    HEADER_BYTES = 8

cdef enum Phase:
    FREE, GREETING, ADMITTED, CLOSING

ctypedef uint8_t flag

cdef struct Connection:          # 88 bytes; nothing else is kept for an idle connection
    Buffer *inbox                # input read and not delivered: a part of a frame, or held frames
    Buffer *outbox
    Py_ssize_t outbox_bound
    int fd
    uint32_t index
    uint32_t generation
    uint32_t max_frame
    uint32_t window              # 0: unlimited
    uint32_t unanswered
    uint32_t timeout_s
    uint32_t since_s             # greeting: accept; admitted: last input; closing: the call of close()
    uint32_t progress_s          # the outbox was empty or shrank
    uint32_t reported_s          # sweep told the caller
    uint32_t next_ready
    uint32_t next_dirty
    uint32_t next_free
    uint16_t failure             # errno of a failed send, to be told by the next poll
    uint8_t phase
    uint8_t allowance            # frames that may still be delivered in the greeting phase
    uint8_t interest             # what epoll watches: EPOLLIN | EPOLLOUT
    flag is_broken               # a bad length: nothing can be found in the rest
    flag is_muted
    flag is_drain_wanted
    flag is_drained
    flag has_ended               # the peer's end was read while closing
    flag is_listed               # on the ready list; as is_dirty, it belongs to the slot and outlives the connection
    flag is_dirty                # on the dirty list

cdef struct Queue:               # of slots, linked through them, first in first out
    uint32_t head
    uint32_t tail
    uint32_t count

cdef struct Slab:
    Connection **chunks          # they never move
    uint32_t max_chunks
    uint32_t slots               # that exist
    uint32_t in_use
    uint32_t free_head           # last in, first out
    Queue ready                  # something to deliver or to tell, that epoll does not know
    Queue dirty                  # something to write, or a close to carry out


# Frames

cdef inline uint32_t read_u32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline uint32_t read_u16(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 8 | p[1]


cdef inline bint is_bad_length(uint32_t length, uint32_t max_frame) noexcept nogil:
    return length < 4 or length > max_frame


cdef inline bint starts_whole_frame(const uint8_t *p, Py_ssize_t n, uint32_t max_frame) noexcept nogil:
    """A whole frame, or a length that is an error."""
    if n < LENGTH_BYTES:
        return False
    cdef uint32_t length = read_u32(p)
    return is_bad_length(length, max_frame) or length <= n - LENGTH_BYTES


cdef inline Py_ssize_t count_frames(const uint8_t *p, Py_ssize_t n) noexcept nogil:
    """How many frames these n bytes are; 0 if they are none, or not whole ones."""
    cdef Py_ssize_t frames = 0
    cdef uint32_t length
    while n > 0:
        if n < HEADER_BYTES:
            return 0
        length = read_u32(p)
        if length < 4 or length > n - LENGTH_BYTES:
            return 0
        p += LENGTH_BYTES + length
        n -= LENGTH_BYTES + <Py_ssize_t>length
        frames += 1
    return frames


# Connections

cdef inline uint64_t number_of(const Connection *c) noexcept nogil:
    return <uint64_t>c.generation << INDEX_BITS | c.index


cdef inline bint is_open(const Connection *c) noexcept nogil:
    return c != NULL and (c.phase == GREETING or c.phase == ADMITTED) and c.failure == 0


cdef inline bint may_deliver(const Connection *c) noexcept nogil:
    """The one rule of flow control: it stops delivering and reading alike."""
    if c.is_broken or c.failure != 0:
        return False
    if c.phase == GREETING:
        return c.allowance > 0
    return (c.phase == ADMITTED and held(c.outbox) < c.outbox_bound
            and (c.window == 0 or c.unanswered < c.window))


cdef inline bint has_whole_frame(const Connection *c) noexcept nogil:
    return c.inbox != NULL and starts_whole_frame(bytes_of(<Buffer *>c.inbox) + c.inbox.start, held(c.inbox), c.max_frame)

# The slab

cdef inline Connection *slot(const Slab *slab, uint32_t index) noexcept nogil:
    return slab.chunks[index // SLOTS_PER_CHUNK] + index % SLOTS_PER_CHUNK


cdef inline Connection *find(const Slab *slab, uint64_t conn) noexcept nogil:
    """NULL: stale, or no ConnId at all."""
    cdef uint32_t index = <uint32_t>(conn & INDEX_MASK)
    if index >= slab.slots:
        return NULL
    cdef Connection *c = slot(slab, index)
    return c if c.phase != FREE and c.generation == conn >> INDEX_BITS else NULL


cdef inline bint create_slab(Slab *slab, uint32_t max_slots) noexcept nogil:
    slab.max_chunks = (max_slots + SLOTS_PER_CHUNK - 1) // SLOTS_PER_CHUNK
    slab.chunks = <Connection **>calloc(slab.max_chunks, sizeof(Connection *))
    slab.slots = slab.in_use = 0
    slab.free_head = slab.ready.head = slab.dirty.head = NO_SLOT
    slab.ready.count = slab.dirty.count = 0
    return slab.chunks != NULL


cdef inline void destroy_slab(Slab *slab) noexcept nogil:
    cdef uint32_t chunk
    for chunk in range(slab.slots // SLOTS_PER_CHUNK):
        free(slab.chunks[chunk])
    free(slab.chunks)
    slab.chunks = NULL
    slab.slots = slab.in_use = slab.ready.count = slab.dirty.count = 0
    slab.free_head = slab.ready.head = slab.dirty.head = NO_SLOT


cdef inline size_t slab_bytes(const Slab *slab) noexcept nogil:
    return slab.slots * sizeof(Connection) + slab.max_chunks * sizeof(Connection *)


cdef inline Connection *first_free(Slab *slab) noexcept nogil:
    """The slot to use next, still free; NULL: no memory, or no more slots allowed."""
    cdef Connection *chunk
    cdef uint32_t i
    if slab.free_head == NO_SLOT:
        if slab.slots // SLOTS_PER_CHUNK >= slab.max_chunks:
            return NULL
        chunk = <Connection *>calloc(SLOTS_PER_CHUNK, sizeof(Connection))
        if chunk == NULL:
            return NULL
        for i in range(<uint32_t>SLOTS_PER_CHUNK):
            chunk[i].index = slab.slots + i
            chunk[i].generation = 1
            chunk[i].next_free = slab.slots + i + 1 if i + 1 < SLOTS_PER_CHUNK else NO_SLOT
        slab.chunks[slab.slots // SLOTS_PER_CHUNK] = chunk
        slab.free_head = slab.slots
        slab.slots += SLOTS_PER_CHUNK
    return slot(slab, slab.free_head)


cdef inline void take_first_free(Slab *slab) noexcept nogil:
    slab.free_head = slot(slab, slab.free_head).next_free
    slab.in_use += 1


cdef inline void give_slot(Slab *slab, Connection *c) noexcept nogil:
    c.phase = FREE
    c.generation += 1
    if c.generation == 0:
        c.generation = 1
    c.next_free = slab.free_head
    slab.free_head = c.index
    slab.in_use -= 1


cdef inline void list_ready(Slab *slab, Connection *c) noexcept nogil:
    if c.is_listed:
        return
    c.is_listed = True
    c.next_ready = NO_SLOT
    if slab.ready.head == NO_SLOT:
        slab.ready.head = c.index
    else:
        slot(slab, slab.ready.tail).next_ready = c.index
    slab.ready.tail = c.index
    slab.ready.count += 1


cdef inline Connection *next_ready(Slab *slab) noexcept nogil:
    """Take the first off the ready list, which is not empty. It may have become free, or another connection, since."""
    cdef Connection *c = slot(slab, slab.ready.head)
    slab.ready.head = c.next_ready
    slab.ready.count -= 1
    c.is_listed = False
    return c


cdef inline void mark_dirty(Slab *slab, Connection *c) noexcept nogil:
    if c.is_dirty:
        return
    c.is_dirty = True
    c.next_dirty = NO_SLOT
    if slab.dirty.head == NO_SLOT:
        slab.dirty.head = c.index
    else:
        slot(slab, slab.dirty.tail).next_dirty = c.index
    slab.dirty.tail = c.index
    slab.dirty.count += 1


cdef inline Connection *next_dirty(Slab *slab) noexcept nogil:
    cdef Connection *c = slot(slab, slab.dirty.head)
    slab.dirty.head = c.next_dirty
    slab.dirty.count -= 1
    c.is_dirty = False
    return c
