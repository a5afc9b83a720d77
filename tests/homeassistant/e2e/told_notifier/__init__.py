"""Stands in for a phone in tests: its messages are lines of a file."""
