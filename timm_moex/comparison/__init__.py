"""Comparisons: train one recipe many times, paired by seed, to see whether a method helps on a dataset."""
