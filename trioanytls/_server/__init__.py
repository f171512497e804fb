"""The server's side: listening, admission, the fallback, and what steers a running server.

Imports everything below; never `_client`.
"""
