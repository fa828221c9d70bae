"""Where an exchange sits in a model."""
