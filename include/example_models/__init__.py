"""Example models: factories, data and training that stand in for a user's own."""
