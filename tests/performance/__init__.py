"""The cost of each kind of work, counted without a clock.

`bounds.json` has what each costs now: the entries into functions, the steps of tasks, the passes of the event loop, and
the memory that stays. A change that makes one dearer fails a test. To see where it goes, compare the output of

    python -m tests.performance ping-pong --where

before and after the change. Once a change has made something cheaper, or is worth what it costs, write the new numbers
into `bounds.json` and docs/performance.md, with Python 3.11, and commit them with the change:

    python -m tests.performance --update
"""
