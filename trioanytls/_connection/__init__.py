"""One connection on Trio, the same for both ends: multiplexer, reader, writer, timers, and streams.

May import `_protocol`, `_config`, `_exceptions` and `_transport`.
"""
