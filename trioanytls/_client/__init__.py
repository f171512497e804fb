"""The client: single connections, URIs, and the pool of connections to one server.

It may import `_connection` and everything below it, and `files`, but never `_server`.
"""
