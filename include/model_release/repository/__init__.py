"""What lies on S3: the archive of sealed versions and the serving prefixes that Triton reads."""
