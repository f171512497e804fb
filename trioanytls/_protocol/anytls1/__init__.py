"""The wire format of the ANYTLS specification, version 1: frames, decoders, and both ends of a connection.

Every byte of this format is encoded and decoded here. The package imports the rest of `_protocol`.
"""
