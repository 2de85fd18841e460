"""A chat in the terminal: a full screen for a person, plain lines for a pipe."""
