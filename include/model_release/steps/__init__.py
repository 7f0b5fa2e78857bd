"""One verb a file; each is `run(release, environment, ...)` and may be run again at any point."""
