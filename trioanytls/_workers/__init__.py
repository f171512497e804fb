"""A server in several processes on one port: the supervisor, and what runs in a worker.

Imports `_server` and the listeners of `_transport`.
"""
