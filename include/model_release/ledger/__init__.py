"""The ledger: who may change a model's serving, what serves, and what has happened."""
