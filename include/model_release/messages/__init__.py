"""Messages to people: the ledger's events are the outbox, so what a killed process did not send another sends."""
