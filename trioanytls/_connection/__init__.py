"""One connection on Trio, the same for both ends: reader, writer, timers, and streams.

Imports `_protocol`, `_config`, `_exceptions` and `_transport`.
"""
