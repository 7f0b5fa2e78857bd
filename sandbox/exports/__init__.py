"""`make show-exports`: real architectures exported and proved, files and models refused, and what all of it costs."""
