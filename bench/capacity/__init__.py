"""A region on paper: what so many connections and messages ask of every part, as functions that anybody can put numbers in."""
