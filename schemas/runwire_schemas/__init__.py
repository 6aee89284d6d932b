"""The agreement on the wire: events, their bytes, topics, keys, connections and the errors."""
