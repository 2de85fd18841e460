"""The store on ScyllaDB or Apache Cassandra."""
