"""`trioanytls server`: its options, its settings and secrets, and the running server."""
