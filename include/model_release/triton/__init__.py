"""Triton: the config that it reads, one replica, a whole fleet."""
