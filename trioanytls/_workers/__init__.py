"""Several server processes on one port: a supervisor in the parent process, and the workers that serve.

Imports `_server`, what `_server` may import, and the listeners of `_transport`.
"""
