"""The directory on Redis: who lives, who is connected where, and rates that all workers share."""
