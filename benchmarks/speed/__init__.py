"""How fast the exchange is, and what it keeps in memory."""
