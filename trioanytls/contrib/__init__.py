"""Adapters that run other libraries over trioanytls. Each module needs its library, and imports public names only."""
