"""Sending a WhatsApp chat export through a running node, and reading it back to compare."""
