"""The parts of bench/gpu_all.py: what each measures on a GPU, how they share its minutes, and what becomes of their figures."""
