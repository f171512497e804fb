"""The wire format of the ANYTLS specification, version 1: frames, decoders, and the state of each end.

Every byte of it is made and read here.
"""
