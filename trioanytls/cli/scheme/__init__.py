"""`trioanytls scheme`: read a padding scheme from a file, and show it as a table or a picture.

It may import `cli.common`.
"""
