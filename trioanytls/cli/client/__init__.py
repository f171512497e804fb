"""`trioanytls client`: its options, and the client while it runs."""
