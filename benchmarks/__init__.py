"""Benchmarks of trioanytls beside real peers: client and server as two processes on loopback, over TLS 1.3.

Run ``python -m benchmarks --help``. The parts:

``peer``         what a peer is: a server, a client, streams; one file each in ``benchmarks.peers``
``handler``      the server's side of every measurement, the same for every peer
``work``         the client's side of every measurement, one subject a module
``worker``       the process that is one side of one peer
``pair``         the two processes of one peer, as the harness sees them
``runner``       rounds, the turn of each peer, and the budget of time
``summary``      medians, and the ratios to the bare ``trio.SSLStream``
``targets``      the figures that the project has promised, and whether they are met
``report``, ``plot``, ``export``   the table, the picture, the JSON

What runs inside the two processes imports nothing but Trio, the standard library and the peer's own packages.
"""
