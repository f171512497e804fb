"""The layer below ANYTLS: TLS 1.3, pinned keys, listeners, addresses, host names, the PROXY protocol, and round trips.

It imports `_exceptions`, the errors of `_protocol`, and the checks of argument types, and nothing else of trioanytls.
"""
