"""The exchange of moments: a function, a module, and the backends between which `functional` chooses."""
