"""What the services have in common. Only :mod:`shared.nn` and its users need torch."""
