"""Scripts that break a running service on purpose and say how it came through; a part of them are tests too."""
