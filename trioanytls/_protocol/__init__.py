"""The protocol without I/O: what every wire format has in common.

Imports neither trio, ssl, socket nor a clock, so that each rule can be tested with bytes alone.
"""
