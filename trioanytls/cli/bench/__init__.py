"""`trioanytls bench`: measure latency and throughput of a connection to a server.

It may import `cli.common`, and the connectivity check of `cli.client`.
"""
