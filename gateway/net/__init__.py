"""The clients' side: connections, who they are, what they ask, what is pushed to them."""
