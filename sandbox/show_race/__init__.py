"""Many processes release one model at once against a real S3: one holds it at any time, and nothing sealed changes."""
