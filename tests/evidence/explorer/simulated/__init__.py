"""A simulated machine, on which the lock's own code runs and every step is decided by somebody else.

The processes of a `World` are greenlets that run the protocol and the slot table as shipped (or a mutant of them) over
simulated memory. Whatever they do to the world is an operation: a load, a store, a fence, a park, a wake, a reading of
the clock, a claim lock, a look whether a process is alive. Before each of them the world asks its strategy which of the
possible actions comes next; so an execution is a sequence of actions, and the same sequence gives the same execution.

An action is a short word: `0` lets process 0 perform its next operation, `f0` makes the oldest store in its buffer
visible (`f0.8` the oldest to word 8), `t0` lets its time run out, `k0` kills it, `h0t` runs the handler `t` in it, and
`z` lets so much time pass that sleepers look around.
"""
