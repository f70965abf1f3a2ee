"""Experiments of the papers whose methods zokern implements, one script a figure or table."""
