"""Speed as ratios against peers in the same run; see timing.py for how it is measured."""
