"""`trioanytls server`: its options, its secrets, and the server while it runs."""
