"""Small functions that several packages use."""
