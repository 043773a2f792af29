"""Methods and architectures by name, from entry points."""
