"""What makes processes one node: its data directory, its port, its workers' lives."""
