"""What writes the texts: caption differences, a server, or an engine in this process."""
