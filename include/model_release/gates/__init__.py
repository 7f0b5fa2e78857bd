"""Gates: looks at two arms in, a verdict with its reasons out. No I/O, no clock, no randomness."""
