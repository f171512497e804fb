"""The client's side: connecting, URIs, and the pool of connections to one server.

Imports everything below; never `_server`.
"""
