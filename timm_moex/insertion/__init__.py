"""Insertion of Moment Exchange into models."""
