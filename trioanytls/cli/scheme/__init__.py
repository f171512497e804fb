"""`trioanytls scheme`: padding schemes shown as tables and pictures."""
