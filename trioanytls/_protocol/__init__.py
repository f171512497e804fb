"""The protocol without I/O: the parts that all wire formats share. Each wire format is a package of its own below.

It imports the standard library without I/O and clocks, and attrs. In particular, it never imports trio, ssl, socket or
time, so that each rule can be tested with bytes alone.
"""
