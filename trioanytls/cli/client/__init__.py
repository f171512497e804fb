"""`trioanytls client`: its options, its settings, and the running client with its front ends."""
