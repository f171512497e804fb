"""The relay on the public names of trioanytls: the handler of a server, and the front ends of a client.

Imports neither the command line nor anything private of the library.
"""
