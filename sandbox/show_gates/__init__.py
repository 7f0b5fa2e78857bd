"""What the gates do on simulated traffic, beside other rules: `python -m sandbox.show_gates` writes docs/gates.md."""
