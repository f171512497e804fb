"""The wire format of anytls-go, sing-box and mihomo: versions 1 and 2 of their protocol, without I/O.

It has the same interface and events as `anytls1`. The two formats are never mixed on one connection.

It may import what `_protocol` has for all wire formats, and nothing of `anytls1`.
"""
