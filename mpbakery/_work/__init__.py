"""What work is given and shared with: queues, shared values, the pool. It stands on `_primitives`."""
