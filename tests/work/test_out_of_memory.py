"""The commonest of all kills: the kernel's, when memory runs out. It is the real one here, in a group with a limit."""

from __future__ import annotations

import signal
from multiprocessing.context import BaseContext

import pytest

import mpbakery
from mpbakery import WorkerDiedError
from support.memory_groups import join_group, memory_group, use_memory, use_memory_under
from support.workers import DEADLINE, Crew

LIMIT = 96 << 20
SMALL = 1 << 20
LARGE = 4 * LIMIT


def test_a_pool_loses_the_task_that_was_too_large_and_goes_on() -> None:
    with memory_group(LIMIT) as group, mpbakery.Pool(2, initializer=join_group, initargs=(group,)) as pool:
        tasks = [pool.apply_async(use_memory, (size,)) for size in [SMALL] * 3 + [LARGE] + [SMALL] * 3]
        with pytest.raises(WorkerDiedError) as caught:
            tasks[3].get(DEADLINE)
        assert caught.value.signal == signal.SIGKILL
        for task in tasks:
            task.wait(DEADLINE)
        # the kernel chooses whom it kills: it may have been the other worker as well, with a small task
        assert sum(task.successful() for task in tasks) >= 5
        assert pool.apply(use_memory, (SMALL,)) == SMALL
        pool.close()
        pool.join()


def test_a_lock_whose_holder_ran_out_of_memory_is_taken_over(fork: BaseContext, crew: Crew) -> None:
    lock = mpbakery.Lock(ctx=fork)
    with memory_group(LIMIT) as group:
        holder = crew.start(use_memory_under, lock, group, LARGE)
        holder.join(DEADLINE)
        assert holder.exitcode == -signal.SIGKILL
        with pytest.warns(mpbakery.OwnerDiedWarning):
            assert lock.acquire(timeout=DEADLINE)
        lock.release()
