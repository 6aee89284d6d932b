"""Text for terminals and pipes, and the JSON of commands, made from the rows of the API."""
