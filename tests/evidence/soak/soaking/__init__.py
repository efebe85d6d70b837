"""What `soak.py` is made of: the plan, the memory that its processes share, what they do, and who watches over them."""
