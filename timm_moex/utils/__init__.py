"""Small functions shared by several subpackages."""
