"""Ranges, placement, rounding and bits decided, and the integer model written."""
