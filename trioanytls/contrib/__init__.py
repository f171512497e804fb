"""trioanytls beneath other libraries, a module for each; what it needs is that library."""
