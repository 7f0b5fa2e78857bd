"""Reports for people: one page a proof, readable without a network."""
