"""The claims about batching, tuning and routing, each measured by a script that writes its section of the page."""
