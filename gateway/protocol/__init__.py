"""The wire protocol, sans-IO: frames, messages, errors and the life of a session. Clients import this package too."""
