"""The bytes below ANYTLS: TLS 1.3, pinned keys, listeners, addresses, and the PROXY protocol.

Imports errors and the texts of a peer from `_protocol`, and nothing else of the package.
"""
