"""`trioanytls client`: its options, its settings, and the running client with its front ends.

It may import `cli.common`.
"""
