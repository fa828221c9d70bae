"""Comparisons: train one recipe several times, paired by seed, to see whether a method helps on a dataset."""
