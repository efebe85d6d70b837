"""What work is given and shared with: `queues`, shared values, `pools`. It stands on `_primitives`."""
