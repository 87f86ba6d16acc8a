"""Faster convolutions on a CPU."""
