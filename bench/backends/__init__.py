"""A worker's directory and store without the worker: made to be asked, as fast as they answer.

The one part of the benches that sees below the protocol: what it measures has no protocol that a client speaks.
"""
