"""`trioanytls demo`: upload files over one connection, and fetch files through the relay, all on this machine.

It may import `cli.common`.
"""
