"""`trioanytls bench`: measure latency and throughput of a connection to a server."""
