"""`trioanytls server`: its options, its settings and secrets, and the running server.

It may import `cli.common`, and the loader of `cli.scheme`.
"""
