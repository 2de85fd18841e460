"""Real servers for the tests: Cassandra, Redis and a proxy that breaks connections. CONTRIBUTING.md says how to use them."""
