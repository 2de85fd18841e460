"""What the kernel asks of Linux: epoll, sockets, descriptors. Declarations alone."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int op, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int maxevents, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET, AF_INET6, SOL_SOCKET, SO_ERROR, SHUT_WR, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_NONBLOCK, SOCK_CLOEXEC
    ctypedef uint32_t socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
    int shutdown(int fd, int how)
    Py_ssize_t recv(int fd, void *target, size_t size, int flags)
    Py_ssize_t send(int fd, const void *source, size_t size, int flags)

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP
    struct sockaddr_in:
        uint8_t sin_addr
    struct sockaddr_in6:
        uint8_t sin6_addr

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_GETFL, F_SETFL, O_NONBLOCK
    int fcntl(int fd, int command, ...)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
