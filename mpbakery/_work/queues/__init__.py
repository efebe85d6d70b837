"""Queues of which no killed process leaves half an item: each item is one message, which the kernel gives whole."""
