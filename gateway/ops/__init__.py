"""What operators see: the operations endpoint, merged figures, what this host can hold."""
