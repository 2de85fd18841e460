"""The rules of a chat: order, resends, membership, delivery, marks. No sockets, no drivers, no processes."""
