"""Benchmarks of trioanytls and of real peers: client and server are two processes on loopback, over TLS 1.3.

Run ``python -m benchmarks --help``. The parts:

``peer``         the interface of a peer: a server, a client, streams; one file each in ``benchmarks.peers``
``handler``      the server's side of every measurement, the same for every peer
``work``         the client's side of every measurement, one subject a module
``worker``       the process that is one side of one peer
``pair``         the two processes of one peer, for the harness
``runner``       rounds, the order of the peers, and the time budget
``summary``      medians, and the ratios to the bare ``trio.SSLStream``
``targets``      the project's targets, and whether they are met
``report``, ``plot``, ``export``   the table, the picture, the JSON

The modules that run in the two processes import only Trio, the standard library and the peer's own packages.
"""
