"""Comparisons: the plan and its phases, worker processes, and what they run."""
