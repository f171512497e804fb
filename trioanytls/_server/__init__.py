"""The server's side: listening, handshakes, admission, the fallback, control and counters.

Imports all layers below it, and never `_client`.
"""
